"""Summaries of stretches of a timeline, for TensorBoard, progress bars and metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tf_backup.timeline.schema import (
    ACCEPTED,
    LOST,
    VERDICTS,
    Rows,
    Settings,
    Timeline,
)
from tf_backup.timeline.update_sizes import UpdateSizes


@dataclasses.dataclass(frozen=True)
class Window:
    """Summary of consecutive updates, and of the gradients whose fate became known meanwhile.

    Attributes:
      step: number of updates made at its end.
      updates: number of updates in it.
      seconds: its length, from release to release.
      replicas: mean number of gradients in one of its updates; NaN if unknown.
      batch_size: number of samples in one gradient; None if unknown.
      verdicts: number of gradients, by verdict.
      staleness: mean staleness of the accepted gradients, in updates.
      arrivals: [gradients] float64, seconds from when a worker was told to compute a gradient until
        it was offered; without lost ones.
      first_s: median time from the beginning of a step to its first gradient; NaN if unknown.
      nth_s: the same, to its N-th.
      last_s: the same, to its last: those that nobody waited for, too.
      worker_s: median of `arrivals`, by worker.
    """

    step: int
    updates: int
    seconds: float
    replicas: float
    batch_size: int | None
    verdicts: Mapping[str, int]
    staleness: float
    arrivals: Rows
    first_s: float
    nth_s: float
    last_s: float
    worker_s: Mapping[int, float]

    @property
    def updates_per_s(self) -> float:
        """Updates per second; NaN if the window has no length."""
        return self.updates / self.seconds if self.seconds > 0 else float("nan")

    @property
    def samples_per_s(self) -> float:
        """Samples per second, of gradients that were used; NaN if unknown."""
        return self.updates_per_s * self.replicas * (self.batch_size or float("nan"))

    @property
    def wasted(self) -> float:
        """Share of the gradients that were not used, from 0 to 1."""
        computed = sum(self.verdicts.values())
        return 1 - self.verdicts["accepted"] / computed if computed else 0.0

    @property
    def late(self) -> float:
        """Share of the gradients that came too late for their update, from 0 to 1."""
        computed = sum(self.verdicts.values())
        return (self.verdicts["late"] + self.verdicts["stale"]) / computed if computed else 0.0

    @property
    def slowest(self) -> int | None:
        """The worker whose gradients take longest; None without gradients."""
        return max(self.worker_s, key=lambda worker: self.worker_s[worker], default=None)


class Windows:
    """Makes windows that follow each other.

    Args:
      settings: settings of the training.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._released: dict[int, int] = {}  # By step, for the last steps: us.

    def next(self, contributions: Rows, updates: Rows) -> Window | None:
        """Return the window of the rows since the last call; None without an update."""
        if not len(updates):
            return None
        before = self._released.get(int(updates["step"][0]))
        first = before if before is not None else int(updates["released"][0])
        count = len(updates) if before is not None else len(updates) - 1
        starts = dict(
            zip((updates["step"] + 1).tolist(), updates["released"].tolist(), strict=True)
        )
        known = {**self._released, **starts}
        sizes = UpdateSizes.of(Timeline(self._settings, contributions, updates)).each
        by_step = {
            step: size
            for step, size in zip(updates["step"].tolist(), sizes.tolist(), strict=True)
            if size
        }
        firsts, nths, lasts = _by_rank(contributions, known, by_step)
        # Gradients that nobody waited for may arrive many steps later.
        self._released = dict(list(known.items())[-1024:])
        there = contributions[(contributions["verdict"] != LOST) & (contributions["began"] > 0)]
        took = (there["arrived"] - there["began"]) / 1e6
        used = contributions[contributions["verdict"] == ACCEPTED]
        counts = np.bincount(contributions["verdict"], minlength=len(VERDICTS)).tolist()
        return Window(
            step=int(updates["step"][-1]) + 1,
            updates=count,
            seconds=(int(updates["released"][-1]) - first) / 1e6,
            replicas=_mean(sizes[len(sizes) - count :]),
            batch_size=self._settings.batch_size,
            verdicts=dict(zip(VERDICTS, counts, strict=True)),
            staleness=float(np.mean(used["update"] - used["step"])) if len(used) else 0.0,
            arrivals=took,
            first_s=_median(firsts),
            nth_s=_median(nths),
            last_s=_median(lasts),
            worker_s={
                int(worker): float(np.median(took[there["worker"] == worker]))
                for worker in np.unique(there["worker"])
            },
        )


def _by_rank(
    contributions: Rows, starts: Mapping[int, int], sizes: Mapping[int, int]
) -> tuple[list[float], list[float], list[float]]:
    """Return, for each step, the times of its first, N-th and last gradient, in seconds.

    Args:
      contributions: gradients.
      starts: the beginning of a step, in microseconds, by step.
      sizes: N, the number of gradients that its update used, by step.
    """
    there = contributions[(contributions["verdict"] != LOST) & (contributions["step"] >= 0)]
    there = there[np.argsort(there["step"], kind="stable")]
    steps, begins = np.unique(there["step"], return_index=True)
    firsts, nths, lasts = [], [], []
    for step, arrived in zip(steps.tolist(), np.split(there["arrived"], begins)[1:], strict=True):
        start, size = starts.get(step), sizes.get(step)
        if start is None or size is None:
            continue
        times = np.sort(arrived - start) / 1e6
        if len(times) >= size:
            firsts.append(float(times[0]))
            nths.append(float(times[size - 1]))
            lasts.append(float(times[-1]))
    return firsts, nths, lasts


def _mean(sizes: Rows) -> float:
    """Return the mean of the sizes that are known."""
    return float(sizes[sizes > 0].mean()) if (sizes > 0).any() else float("nan")


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")
