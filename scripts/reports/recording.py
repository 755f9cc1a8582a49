"""A recorded training, with its times in seconds and its gradients matched to updates."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from tf_backup.timeline.schema import (
    ACCEPTED,
    LATE,
    NONFINITE,
    STALE,
    UNKNOWN,
    Rows,
    Settings,
    Timeline,
    step_keys,
)
from tf_backup.timeline.update_sizes import UpdateSizes

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# Gradients with these verdicts were computed to their end, once.
_COMPUTED = (ACCEPTED, LATE, STALE, NONFINITE)


class Recording:
    """A timeline with what all parts of a report need.

    Times are seconds since the first event.

    Attributes:
      settings: settings of the training.
      contributions: rows of CONTRIBUTION, as recorded.
      updates: rows of UPDATE, by run and step.
      sizes: N, the number of gradients that each update used.
      workers: [workers] indices of the workers that computed something, ascending.
      origin_us: time of the first event, in microseconds since 1970.
      began, arrived: [contributions] seconds.
      released: [updates] seconds.
      runs: the stretches in which updates were made.

    Raises:
      ValueError: if there is not one whole update.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.settings: Settings = timeline.settings
        self.contributions: Rows = timeline.contributions
        order = np.lexsort((timeline.updates["step"], timeline.updates["run"]))
        self.updates: Rows = timeline.updates[order]
        self.sizes = UpdateSizes.of(timeline)[order]
        if not len(self.updates) or not (self.contributions["verdict"] == ACCEPTED).any():
            raise ValueError(
                "the records have not one whole update. Train for longer, or look whether the "
                "training has ended in an error."
            )
        self.workers: Ints = np.unique(self.contributions["worker"]).astype(np.int64)
        self.origin_us = int(min(self.contributions["began"].min(), self.updates["released"].min()))
        self.began = self._seconds(self.contributions["began"])
        self.arrived = np.maximum(self._seconds(self.contributions["arrived"]), self.began)
        self.released = self._seconds(self.updates["released"])
        self.runs = self._runs()

    @property
    def synchronous(self) -> bool:
        """Whether an update uses only gradients at the newest parameters."""
        return self.settings.max_staleness == 0

    @property
    def busy(self) -> Floats:
        """[contributions] seconds from the worker's start on a gradient until it arrived."""
        return self.arrived - self.began

    @property
    def computed(self) -> Any:
        """[contributions] bool, whether the gradient was computed to its end."""
        return np.isin(self.contributions["verdict"], _COMPUTED)

    @functools.cached_property
    def seconds(self) -> float:
        """Length of all runs together: without pauses between epochs."""
        return sum(run.end - run.begin for run in self.runs)

    @functools.cached_property
    def worker_of(self) -> Ints:
        """[contributions] index into `workers`."""
        return np.searchsorted(self.workers, self.contributions["worker"])

    @functools.cached_property
    def starts(self) -> Floats:
        """[updates] seconds at which the update before was released; NaN in a run's first."""
        follows = np.diff(self._update_keys) == 1
        return np.concatenate([[np.nan], np.where(follows, self.released[:-1], np.nan)])

    @functools.cached_property
    def computed_for(self) -> Ints:
        """[contributions] index of the update from whose step it is; -1 if it was not made."""
        return self._matched(self.contributions["step"])

    @functools.cached_property
    def used_by(self) -> Ints:
        """[contributions] index of the update that used it; -1 if none did."""
        used = self.contributions["verdict"] == ACCEPTED
        return np.where(used, self._matched(self.contributions["update"]), -1)

    @functools.cached_property
    def nth_used(self) -> tuple[Floats, Floats]:
        """[updates] seconds at which half of the gradients had arrived, and all; or NaN."""
        used = np.flatnonzero(self.used_by >= 0)
        order = used[np.lexsort((self.arrived[used], self.used_by[used]))]
        rank = ranks(self.used_by[order])
        half, full = (np.full(len(self.updates), np.nan) for _ in range(2))
        middle = (self.sizes.known[self.used_by[order]] + 1) // 2
        for found, chosen in ((half, order[rank == middle - 1]), (full, order)):
            found[self.used_by[chosen]] = self.arrived[chosen]  # Of equals, the last one stays.
        return half, full

    @functools.cached_property
    def update_seconds(self) -> Floats:
        """[updates] seconds from the last gradient (or the update before) to the release."""
        begin = np.fmax(self.nth_used[1], self.starts)
        return np.maximum(self.released - begin, 0.0)

    @functools.cached_property
    def _update_keys(self) -> Ints:
        return step_keys(self.updates["run"], self.updates["step"])

    def _matched(self, steps: Any) -> Ints:
        keys = step_keys(self.contributions["run"], steps)
        at = np.minimum(np.searchsorted(self._update_keys, keys), len(self.updates) - 1)
        return np.where((self._update_keys[at] == keys) & (steps != UNKNOWN), at, -1)

    def _seconds(self, times_us: Any) -> Floats:
        return np.asarray((times_us - self.origin_us) / 1e6, np.float64)

    def _runs(self) -> list[Run]:
        numbers, first = np.unique(self.updates["run"], return_index=True)
        ends = np.maximum.reduceat(self.released, first)
        begins = np.minimum.reduceat(self.released, first)
        at = np.searchsorted(numbers, self.contributions["run"])
        known = numbers[np.minimum(at, len(numbers) - 1)] == self.contributions["run"]
        np.minimum.at(begins, at[known], self.began[known])
        return [
            Run(int(number), float(begin), float(end))
            for number, begin, end in zip(numbers, begins, ends, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Run:
    """A stretch in which updates were made, usually an epoch; in seconds."""

    number: int
    begin: float
    end: float


def ranks(groups: Any) -> Ints:
    """Return [n] the position of each element in its group; equal groups are neighbours."""
    positions = np.arange(len(groups))
    if not len(groups):
        return positions
    first = np.concatenate([[True], groups[1:] != groups[:-1]])
    return positions - np.maximum.accumulate(np.where(first, positions, 0))
