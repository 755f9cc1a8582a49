"""Which workers live: those whose lease has not ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, Any]  # int64

HEARTBEAT_S = 1.0  # Between two signs of life of a worker, also while it computes.
_SILENCE_S = 4 * HEARTBEAT_S  # Then something is wrong with it.


class Members:
    """The workers of a cluster, as the chief sees them.

    A worker counts up while it lives. Its lease lasts for `timeout_s` after the chief has last seen
    it count, by the chief's own clock.

    Args:
      workers: how many there may be.
      timeout_s: how long a lease lasts, in seconds.
      clock: the time in seconds, never going back.
    """

    def __init__(
        self, workers: int, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._lives = np.zeros([workers], np.int64)
        self._beats = np.zeros([workers], np.int64)
        self._seen = np.full([workers], -np.inf)

    def update(self, lives: Numbers, beats: Numbers) -> None:
        """Takes note of the workers' lives and counts ([workers] each), as the board has them."""
        moved = (beats != self._beats) | (lives != self._lives)
        seen = np.where(moved, self._clock(), self._seen)
        self._lives, self._beats, self._seen = np.array(lives), np.array(beats), seen

    @property
    def lives(self) -> list[int]:
        """The number of each worker's life if it lives, else 0."""
        fresh = self._clock() - self._seen < self.timeout_s
        living = np.where(fresh & (self._lives > 0), self._lives, 0)
        return [int(life) for life in living]

    @property
    def living(self) -> int:
        """How many workers live."""
        return sum(life > 0 for life in self.lives)

    @property
    def missing(self) -> list[int]:
        """The workers that do not live, or have not come yet."""
        return [worker for worker, life in enumerate(self.lives) if not life]

    @property
    def silent(self) -> list[int]:
        """The workers that have not been heard of lately, those that do not live among them."""
        return [int(worker) for worker in np.flatnonzero(self._clock() - self._seen > _SILENCE_S)]

    @property
    def left(self) -> list[bool]:
        """Which workers have said that they go."""
        return [bool(life < 0) for life in self._lives]

    @property
    def ever(self) -> list[bool]:
        """Which workers have been there at some time."""
        return [bool(life != 0) for life in self._lives]
