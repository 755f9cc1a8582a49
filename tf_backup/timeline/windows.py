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
)


@dataclasses.dataclass(frozen=True)
class Window:
    """Summary of consecutive updates, and of the gradients whose fate became known meanwhile.

    Attributes:
      step: number of updates made at its end.
      updates: number of updates in it.
      seconds: its length, from release to release.
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
        firsts, nths, lasts = self._by_rank(contributions, known)
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
        self, contributions: Rows, starts: Mapping[int, int]
    ) -> tuple[list[float], list[float], list[float]]:
        """Return, for each step, the times of its first, N-th and last gradient, in seconds."""
        replicas = self._settings.replicas
        there = contributions[(contributions["verdict"] != LOST) & (contributions["step"] >= 0)]
        there = there[np.argsort(there["step"], kind="stable")]
        steps, begins = np.unique(there["step"], return_index=True)
        firsts, nths, lasts = [], [], []
        for step, arrived in zip(
            steps.tolist(), np.split(there["arrived"], begins)[1:], strict=True
        ):
            start = starts.get(step)
            if start is None:
                continue
            times = np.sort(arrived - start) / 1e6
            if len(times) >= replicas:
                firsts.append(float(times[0]))
                nths.append(float(times[replicas - 1]))
                lasts.append(float(times[-1]))
        return firsts, nths, lasts


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")
