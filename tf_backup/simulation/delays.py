"""Models of how long workers take to compute a gradient.

Each is called as `durations(rng, workers)`. It returns how long the next gradient of each of these
workers takes ([n], seconds), and keeps no state: all that is random comes from `rng`. Any function
with these arguments may be used in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_backup.checks import checked_int, checked_number
from tf_backup.timeline.schema import DUPLICATE, LOST, Timeline

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Rng = np.random.Generator

# Draws how long one gradient takes, in seconds, for each of the workers with the given indices.
Durations = Callable[[Rng, Ints], Floats]

_SHORTEST_S = 1e-9  # A random duration may not be 0.
_MOST_REPAIRS = 10_000  # Of one gradient.


@dataclasses.dataclass(frozen=True)
class Constant:
    """Every gradient takes equally long.

    Args:
      seconds: how long; above 0.
    """

    seconds: float

    def __post_init__(self) -> None:
        checked_number("seconds", self.seconds, positive=True)

    def __call__(self, rng: Rng, workers: Ints) -> Floats:
        """Return the durations."""
        return np.full(len(workers), float(self.seconds))


@dataclasses.dataclass(frozen=True)
class Exponential:
    """A constant time and an exponential one.

    Args:
      offset: the constant time, in seconds; at least 0.
      mean: mean of the exponential time, in seconds; above 0.
    """

    offset: float
    mean: float

    def __post_init__(self) -> None:
        checked_number("offset", self.offset)
        checked_number("mean", self.mean, positive=True)

    def __call__(self, rng: Rng, workers: Ints) -> Floats:
        """Draw durations."""
        drawn = rng.exponential(self.mean, len(workers))
        drawn += self.offset
        return np.maximum(drawn, _SHORTEST_S)


@dataclasses.dataclass(frozen=True)
class Pareto:
    """Most gradients take little longer than the fastest, and a few very long.

    The share of those that take longer than s seconds is (scale / s) ** shape.

    Args:
      scale: the shortest time, in seconds; above 0.
      shape: above 0. The smaller, the more stragglers; the mean is infinite up to 1.
    """

    scale: float
    shape: float

    def __post_init__(self) -> None:
        checked_number("scale", self.scale, positive=True)
        checked_number("shape", self.shape, positive=True)

    def __call__(self, rng: Rng, workers: Ints) -> Floats:
        """Draw durations."""
        drawn: Floats = self.scale * (1.0 + rng.pareto(self.shape, len(workers)))
        return drawn


@dataclasses.dataclass(frozen=True)
class OneSlowWorker:
    """One worker takes longer than the others.

    Args:
      base: how long the others take.
      worker: index of the slow worker.
      factor: how many times as long it takes; above 0.
    """

    base: Durations
    worker: int
    factor: float

    def __post_init__(self) -> None:
        checked_int("worker", self.worker, 0)
        checked_number("factor", self.factor, positive=True)

    def __call__(self, rng: Rng, workers: Ints) -> Floats:
        """Draw durations."""
        return self.base(rng, workers) * np.where(workers == self.worker, self.factor, 1.0)


@dataclasses.dataclass(frozen=True)
class Failing:
    """Workers fail now and then while they compute.

    A worker that fails is repaired and then computes a gradient anew. In the simulation all this is
    one long computation. So its result is usually stale, where a real cluster has a lost gradient
    instead; updates happen at the same times.

    Args:
      base: how long a gradient takes without failures.
      mean_time_between_failures_s: mean computing time of a worker until it fails; above 0.
      repair_s: time from a failure until the worker computes again; at least 0.
    """

    base: Durations
    mean_time_between_failures_s: float
    repair_s: float

    def __post_init__(self) -> None:
        name = "mean_time_between_failures_s"
        checked_number(name, self.mean_time_between_failures_s, positive=True)
        checked_number("repair_s", self.repair_s)

    def __call__(self, rng: Rng, workers: Ints) -> Floats:
        """Draw durations.

        Raises:
          ValueError: if workers fail so often that a gradient is hardly ever finished.
        """
        total = np.zeros(len(workers))
        left = np.arange(len(workers))  # Those whose gradient is not finished.
        for _ in range(_MOST_REPAIRS):
            needed = self.base(rng, workers[left])
            fails = rng.exponential(self.mean_time_between_failures_s, len(left))
            failed = fails < needed
            total[left] += np.where(failed, fails + self.repair_s, needed)
            left = left[failed]
            if not len(left):
                return total
        raise ValueError(
            f"worker {workers[left[0]]} failed {_MOST_REPAIRS} times while it computed one "
            f"gradient: mean_time_between_failures_s is {self.mean_time_between_failures_s}, which "
            "is too short for a gradient. Raise it, or let gradients take less time."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """Durations that were measured, each as likely as any other of the same worker.

    Args:
      samples: for each worker, its measured durations in seconds; above 0.
      alike: whether every worker draws from the durations of all workers. Then there may be more
        workers than were measured.

    Raises:
      ValueError: if a worker has no durations, or one is not positive and finite.
    """

    samples: Sequence[Sequence[float] | Floats]
    alike: bool = False
    _all: Floats = dataclasses.field(init=False, repr=False)
    _starts: Ints = dataclasses.field(init=False, repr=False)
    _lengths: Ints = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = [np.asarray(row, np.float64).reshape([-1]) for row in self.samples]
        if self.alike:
            rows = [np.concatenate(rows)] if rows else []
        for worker, row in enumerate(rows):
            if not len(row):
                raise ValueError(
                    f"worker {worker} has no measured durations, so that none can be drawn for it. "
                    "Leave it out, or draw for all workers alike with alike=True."
                )
            bad = row[~((row > 0) & (row < np.inf))]
            if len(bad):
                raise ValueError(
                    f"worker {worker} has a duration of {bad[0]} s; it must be above 0 and finite."
                )
        if not rows:
            raise ValueError("there are no measured durations; give those of one worker at least.")
        lengths = np.array([len(row) for row in rows], np.int64)
        object.__setattr__(self, "_all", np.concatenate(rows))
        object.__setattr__(self, "_lengths", lengths)
        object.__setattr__(self, "_starts", np.cumsum(lengths) - lengths)

    @classmethod
    def of(cls, timeline: Timeline, alike: bool = False) -> Recorded:
        """Return the durations in a timeline: from when a worker began until its gradient arrived.

        Gradients that were lost are left out.

        Args:
          timeline: timeline of a training.
          alike: see the class.
        """
        rows = timeline.contributions
        rows = rows[(rows["verdict"] != LOST) & (rows["verdict"] != DUPLICATE)]
        microseconds = np.maximum(rows["arrived"] - rows["began"], 1)
        workers = int(rows["worker"].max()) + 1 if len(rows) else 0
        samples = [microseconds[rows["worker"] == worker] / 1e6 for worker in range(workers)]
        return cls(samples, alike)

    def __call__(self, rng: Rng, workers: Ints) -> Floats:
        """Draw durations.

        Raises:
          ValueError: if a worker was not measured.
        """
        known = len(self._lengths)
        rows = workers * 0 if self.alike else workers
        if len(rows) and int(rows.max()) >= known:
            raise ValueError(
                f"worker {rows.max()} was not measured, only workers 0 to {known - 1}. Simulate "
                f"{known} workers, or draw for all workers alike with alike=True."
            )
        chosen = (rng.random(len(rows)) * self._lengths[rows]).astype(np.int64)
        drawn: Floats = self._all[self._starts[rows] + chosen]
        return drawn


def draw(durations: Durations, rng: Rng, workers: Ints) -> Floats:
    """Draw a duration for each of the given workers, and check what comes.

    Raises:
      ValueError: if it is not one positive, finite number per worker.
    """
    drawn = np.asarray(durations(rng, workers), np.float64)
    if drawn.shape != workers.shape:
        raise ValueError(
            f"durations returned an array of shape {drawn.shape} for {len(workers)} worker(s); it "
            f"must be of shape {workers.shape}, one number per worker."
        )
    if len(drawn) and not (drawn.min() > 0 and drawn.max() < np.inf):
        bad = int(np.flatnonzero(~((drawn > 0) & (drawn < np.inf)))[0])
        raise ValueError(
            f"durations returned {drawn[bad]} for worker {workers[bad]}; a duration must be "
            "positive and finite (seconds)."
        )
    return drawn
