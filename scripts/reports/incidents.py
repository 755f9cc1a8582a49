"""Incidents: gradients that were lost or not finite, and workers that were away."""

from __future__ import annotations

import dataclasses

import numpy as np

from scripts.reports.recording import Ints, Recording
from tf_backup.timeline.schema import DUPLICATE, LOST, NONFINITE

_MISSED = 2  # Updates without a worker that make it away.


@dataclasses.dataclass(frozen=True, order=True)
class Incident:
    """Something that went wrong, or a worker that was away.

    Attributes:
      at: seconds since the first event.
      worker: index of the worker.
      kind: lost, nonfinite, duplicate, or how the worker was away: joined, away, gone.
      seconds: how long it took.
      updates: number of updates that were made meanwhile.
    """

    at: float
    worker: int
    kind: str
    seconds: float
    updates: int


def incidents(recording: Recording) -> list[Incident]:
    """Return what went wrong, in order of time."""
    found = absences(recording)
    for verdict, kind in ((LOST, "lost"), (NONFINITE, "nonfinite"), (DUPLICATE, "duplicate")):
        rows = np.flatnonzero(recording.contributions["verdict"] == verdict)
        begin, end = recording.began[rows], recording.arrived[rows]
        made = _released(recording, end) - _released(recording, begin)
        workers = recording.contributions["worker"][rows]
        times = (begin.tolist(), workers.tolist(), (end - begin).tolist(), made.tolist())
        found += [
            Incident(at, worker, kind, length, updates)
            for at, worker, length, updates in zip(*times, strict=True)
        ]
    return sorted(found)


def absences(recording: Recording) -> list[Incident]:
    """Return when a worker had nothing to compute while two updates or more were made.

    Between two gradients of a worker, one update is normal: it waits for it. So is one more at
    the end of a run. Old gradients may be used, if the training allows them, after as many updates
    as all workers' gradients make.
    """
    normal = 1 if recording.synchronous else 1 + recording.settings.workers // recording.sizes.usual
    found = []
    run = recording.contributions["run"]
    order = np.lexsort((recording.began, recording.worker_of))
    begins = np.searchsorted(recording.worker_of[order], np.arange(len(recording.workers) + 1))
    total = len(recording.updates)
    for index, worker in enumerate(recording.workers.tolist()):
        rows = order[begins[index] : begins[index + 1]]
        began, arrived = recording.began[rows], recording.arrived[rows]
        first = _released(recording, began)
        last = _released(recording, arrived)
        if first[0] >= _MISSED:
            found.append(Incident(0.0, worker, "joined", float(began[0]), int(first[0])))
        missed = first[1:] - last[:-1] - normal - np.abs(np.diff(run[rows]))
        for at in np.flatnonzero(missed >= _MISSED):
            length = float(began[at + 1] - arrived[at])
            found.append(Incident(float(arrived[at]), worker, "away", length, int(missed[at])))
        if total - last[-1] - normal >= _MISSED:
            length = float(recording.released[-1] - arrived[-1])
            without = int(total - last[-1] - normal)
            found.append(Incident(float(arrived[-1]), worker, "gone", length, without))
    return found


def _released(recording: Recording, times: object) -> Ints:
    """Return the number of updates that were released until each of some times."""
    return np.searchsorted(recording.released, np.asarray(times), side="right")
