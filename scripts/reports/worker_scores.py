"""Two scores of a worker's speed: against the fastest worker, and against its own best.

Both are ratios from 0 (worst) to 1 (best) of medians, as in NVIDIA's resiliency extension, which
calls a worker a straggler below 0.75.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scripts.reports.recording import Floats, Recording

THRESHOLD = 0.75
_WINDOW = 50  # Gradients whose median is compared with that of other times, at least.
_WINDOWS = 40  # At most: among very many medians, the best is one by chance.
_LEAST = 5  # A median of fewer says nothing.


@dataclasses.dataclass(frozen=True)
class WorkerScore:
    """Speed of one worker.

    Attributes:
      worker: index of the worker.
      gradients: number of gradients that it has computed to their end.
      median: median seconds for one gradient, until it arrived.
      median_compute: median seconds of that which the worker itself has measured.
      relative: the fastest worker's median / its own; 0.5 is twice as slow.
      own: its best median over a while / that of its last gradients; None if there are too few.
    """

    worker: int
    gradients: int
    median: float
    median_compute: float
    relative: float
    own: float | None

    @property
    def lowest(self) -> float:
        """The lower one of the scores."""
        return min(self.relative, 1.0 if self.own is None else self.own)

    @property
    def slow(self) -> bool:
        """Whether one of the scores is below the threshold."""
        return self.lowest < THRESHOLD


def scores(recording: Recording) -> list[WorkerScore]:
    """Return the scores of all workers that have computed a gradient, by index."""
    busy, compute = recording.busy, recording.contributions["compute"] / 1e6
    by_worker = {
        int(worker): np.flatnonzero(recording.computed & (recording.worker_of == index))
        for index, worker in enumerate(recording.workers)
    }
    by_worker = {worker: rows for worker, rows in by_worker.items() if len(rows)}
    medians = {worker: _median(busy[rows]) for worker, rows in by_worker.items()}
    fastest = min(medians.values(), default=0.0)
    return [
        WorkerScore(
            worker=worker,
            gradients=len(rows),
            median=medians[worker],
            median_compute=_median(compute[rows][compute[rows] >= 0]),
            relative=fastest / medians[worker] if medians[worker] else 1.0,
            own=own_score(busy[rows[np.argsort(recording.began[rows], kind="stable")]]),
        )
        for worker, rows in by_worker.items()
    ]


def own_score(busy: Floats) -> float | None:
    """Return the smallest median of a window / that of the last window.

    Args:
      busy: [gradients] seconds that each took, in their order.
    """
    window = min(max(_WINDOW, len(busy) // _WINDOWS), len(busy) // 2)
    if window < _LEAST:
        return None
    whole = len(busy) // window * window
    medians = np.median(busy[len(busy) - whole :].reshape(-1, window), axis=1)
    return float(medians.min() / medians[-1]) if medians[-1] > 0 else 1.0


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")
