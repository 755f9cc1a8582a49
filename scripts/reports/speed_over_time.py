"""Gradients per second, over the time spent training."""

from __future__ import annotations

import dataclasses

import numpy as np

from scripts.reports.recording import Floats, Recording
from tf_backup.timeline.schema import ACCEPTED

_MOST = 120  # Intervals in a picture.
_UPDATES = 20  # At least so many updates in an interval, on average.


@dataclasses.dataclass(frozen=True)
class SpeedOverTime:
    """Rates in equal intervals of the time spent training: pauses between runs are cut out.

    Attributes:
      edges: [intervals + 1] seconds of training.
      computed: [intervals] gradients that arrived per second.
      used: [intervals] those of them that an update used, per second.
    """

    edges: Floats
    computed: Floats
    used: Floats

    @classmethod
    def of(cls, recording: Recording) -> SpeedOverTime:
        """Return the rates in a recording."""
        intervals = int(np.clip(len(recording.updates) // _UPDATES, 1, _MOST))
        edges = np.linspace(0.0, max(recording.seconds, 1e-6), intervals + 1)
        arrived = _without_pauses(recording, recording.arrived)
        used = recording.contributions["verdict"] == ACCEPTED
        counts = [np.histogram(arrived[kind], edges)[0] for kind in (recording.computed, used)]
        return cls(edges, *(each / edges[1] for each in counts))


def _without_pauses(recording: Recording, times: Floats) -> Floats:
    """Return how much of the training was over at each of some times, in seconds."""
    known, elapsed, total = [], [], 0.0
    for run in recording.runs:
        known += [run.begin, run.end]
        elapsed += [total, total + run.end - run.begin]
        total = elapsed[-1]
    return np.interp(times, np.maximum.accumulate(known), elapsed)
