"""Gradients per second, over the time of a training."""

from __future__ import annotations

import dataclasses

import numpy as np

from scripts.reports.recording import Floats, Recording
from tf_backup.timeline.schema import ACCEPTED

_MOST = 120  # Intervals in a picture.
_UPDATES = 20  # At least so many updates in an interval, on average.
_LEAST = 0.25  # A rate over a smaller part of an interval says little.


@dataclasses.dataclass(frozen=True)
class SpeedOverTime:
    """Rates in equal intervals, without the time of pauses between runs.

    Attributes:
      edges: [intervals + 1] seconds since the first event.
      computed: [intervals] gradients that arrived per second; NaN in a pause between runs.
      used: [intervals] those of them that an update used, per second; NaN in a pause.
    """

    edges: Floats
    computed: Floats
    used: Floats

    @classmethod
    def of(cls, recording: Recording) -> SpeedOverTime:
        """Return the rates in a recording."""
        intervals = int(np.clip(len(recording.updates) // _UPDATES, 1, _MOST))
        end = recording.runs[-1].end
        edges = np.linspace(0.0, end if end > 0 else 1e-6, intervals + 1)
        width = edges[1] - edges[0]
        verdict = recording.contributions["verdict"]
        arrived, _ = np.histogram(recording.arrived[recording.computed], edges)
        used, _ = np.histogram(recording.arrived[verdict == ACCEPTED], edges)
        active = np.zeros(intervals)  # Seconds of each interval in which updates were made.
        for run in recording.runs:
            within = np.minimum(edges[1:], run.end) - np.maximum(edges[:-1], run.begin)
            active += np.maximum(within, 0.0)
        known = active > _LEAST * width
        seconds = np.where(known, active, 1.0)
        rates = [np.where(known, counts / seconds, np.nan) for counts in (arrived, used)]
        return cls(edges, *rates)
