"""Workers of a cluster and their leases: which of them are alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, Any]  # int64

HEARTBEAT_S = 1.0  # Interval between heartbeats of a worker, also while it computes.
_SILENCE_S = 4 * HEARTBEAT_S  # After this, something is wrong with the worker.
_BLIND_S = 2 * HEARTBEAT_S  # A chief that has not looked for longer is not looking.


class Members:
    """The workers of a cluster, as the chief sees them.

    Each worker increments a counter while it is alive. Its lease lasts for `timeout_s` after the
    chief last saw the counter change, by the chief's own clock. The clock stands still while the
    chief does not look: it may be frozen itself, or wait for a parameter server that is.

    Args:
      workers: number of workers in the cluster.
      timeout_s: length of a lease, in seconds.
      clock: returns a monotonic time in seconds.
    """

    def __init__(
        self, workers: int, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._lives = np.zeros([workers], np.int64)
        self._beats = np.zeros([workers], np.int64)
        self._seen = np.full([workers], -np.inf)
        self._newest = 0
        self._looked = clock()

    def update(self, lives: Numbers, beats: Numbers) -> None:
        """Record the workers' lives and heartbeat counts ([workers] each) from the board."""
        moved = (beats != self._beats) | (lives != self._lives)
        now = self._clock()
        blind = now - self._now()
        self._seen = np.where(moved, now, self._seen + blind)
        self._lives, self._beats, self._looked = np.array(lives), np.array(beats), now
        self._newest = max(self._newest, int(np.max(lives)))

    @property
    def newest(self) -> int:
        """The largest number of a life that the chief has seen; 0: none.

        Numbers of lives grow, so a life with a larger one has begun since. If another thread calls
        `update`, read this before `lives`, which then has every life up to this number.
        """
        return self._newest

    @property
    def lives(self) -> list[int]:
        """The number of each worker's life if it is alive, else 0."""
        fresh = self._now() - self._seen < self.timeout_s
        living = np.where(fresh & (self._lives > 0), self._lives, 0)
        return [int(life) for life in living]

    @property
    def living(self) -> int:
        """Number of workers that are alive."""
        return sum(life > 0 for life in self.lives)

    @property
    def missing(self) -> list[int]:
        """The workers that are dead or have not started yet."""
        return [worker for worker, life in enumerate(self.lives) if not life]

    @property
    def silent(self) -> list[int]:
        """The workers without a recent heartbeat, including those that are dead."""
        return [int(worker) for worker in np.flatnonzero(self._now() - self._seen > _SILENCE_S)]

    @property
    def left(self) -> list[bool]:
        """Whether each worker has said that it is leaving."""
        return [bool(life < 0) for life in self._lives]

    @property
    def ever(self) -> list[bool]:
        """Whether each worker has ever been alive."""
        return [bool(life != 0) for life in self._lives]

    def _now(self) -> float:
        """Return the time, or when the chief stopped looking."""
        return min(self._clock(), self._looked + _BLIND_S)
