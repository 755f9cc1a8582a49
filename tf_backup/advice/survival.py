"""Durations of gradients that were lost, by Kaplan and Meier's estimate of survival."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclasses.dataclass(frozen=True, eq=False)
class Survival:
    """Share of gradients that take longer than some time, where some were lost before their end.

    A lost gradient says only that it would have taken longer than the time after which it was given
    up (it is *right-censored*). Leaving it out would make long durations look rare, and so would
    taking that time for its duration.

    Attributes:
      seconds: [n] durations, and the times after which lost gradients were given up, ascending.
      share: [n] share of gradients that take longer than each.

    Reference: Kaplan and Meier, Nonparametric Estimation from Incomplete Observations (1958).
    """

    seconds: Floats
    share: Floats

    @classmethod
    def of(cls, seconds: Floats, lost: Bools) -> Survival:
        """Return the estimate from durations, of which some are those of lost gradients."""
        order = np.lexsort((lost, seconds))  # At equal times, those that arrived come first.
        at_risk = len(seconds) - np.arange(len(seconds))
        share = np.cumprod(1.0 - ~lost[order] / at_risk, dtype=np.float64)
        return cls(seconds[order], share)

    @property
    def beyond(self) -> float:
        """Share of gradients that take longer than anything seen; above 0 if the last was lost."""
        return float(self.share[-1])

    def longer_than(self, given_up: Floats, rng: np.random.Generator) -> Floats:
        """Draw durations, each longer than a given time.

        Where nothing longer was seen, the result is the longest time seen, a lower bound.
        """
        last = np.searchsorted(self.seconds, given_up, side="right") - 1
        share = np.where(last >= 0, self.share[last], 1.0)
        found = np.searchsorted(-self.share, -share * rng.random(len(given_up)))
        drawn = self.seconds[np.minimum(found, len(self.seconds) - 1)]
        return np.maximum(drawn, given_up)


ENOUGH = 30  # Arrived gradients of one worker that make an estimate of its own.


def complete(
    seconds: Floats, lost: Bools, workers: Ints, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Replace the durations of lost gradients by draws of how long they would have taken.

    Args:
      seconds: [n] durations; for lost gradients, the time after which they were given up.
      lost: [n] bool.
      workers: [n] whose gradient it is. A worker's lost gradients are drawn from its own estimate
        if at least `ENOUGH` of its gradients arrived, otherwise from that of all workers.
      rng: source of the draws.

    Returns:
      The durations, and the largest share of a worker's gradients that take longer than anything
      seen.
    """
    done, beyond = seconds.copy(), 0.0
    pooled = Survival.of(seconds, lost)
    for worker in np.unique(workers[lost]):
        mine = workers == worker
        enough = np.count_nonzero(mine & ~lost) >= ENOUGH
        survival = Survival.of(seconds[mine], lost[mine]) if enough else pooled
        done[mine & lost] = survival.longer_than(seconds[mine & lost], rng)
        beyond = max(beyond, survival.beyond)
    return done, beyond
