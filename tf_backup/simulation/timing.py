"""Times of updates: N + b workers on a virtual clock, without computing any gradient.

The simulation follows the rules of the gate (`rules.protocol`), in this form:

* Gradients are accepted in the order in which they arrive. So the n-th accepted gradient, counted
  from 0, is used by update g = n // N, and every gradient is offered to the update g that is being
  filled. It is accepted if its step is at least g - max_staleness.
* Update g starts when its N-th gradient arrives, or when update g - 1 is released if that is later.
  It takes `update_s` and is then released: the workers whose gradients it used, and those that
  wait, begin step g + 1.
* A refused worker waits for the next release, unless all updates before g are released. Then its
  gradient is stale, and it begins step g at once.

A refused worker always begins a step that is fresh enough for update g: that update cannot have
received a gradient, or even have begun to fill, before update g - max_staleness - 1 was released.
So each worker offers at most two gradients to an update, and an update is a few vector operations
over all workers.

At equal times, workers offer in the order of their indices, and before an update is released.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from tf_backup.checks import checked_int, checked_number
from tf_backup.policy import BackupPolicy
from tf_backup.rules.protocol import ANY_STALENESS
from tf_backup.simulation.delays import Durations, Floats, Ints, draw

_BUFFERED = 2**16  # Number of stalenesses that are counted together.


class Counts(NamedTuple):
    """Number of gradients of each worker, by what became of them; each [workers] int64.

    A gradient that is still being computed when the last update is released is not counted, nor is
    one that was accepted for a later update.
    """

    accepted: Ints
    late: Ints
    stale: Ints


@dataclasses.dataclass(frozen=True, eq=False)
class Simulated:
    """Result of a simulation.

    Attributes:
      times: [updates] virtual seconds at which each update was released.
      counts: what became of each worker's gradients, over all updates.
      staleness: [largest + 1] int64, number of used gradients of each staleness, over all updates.
      warmup: number of updates that `seconds_per_update` leaves out.
    """

    times: Floats
    counts: Counts
    staleness: Ints
    warmup: int = 0

    @property
    def seconds_per_update(self) -> float:
        """Mean time between updates, after the warm-up."""
        start = self.times[self.warmup - 1] if self.warmup else 0.0
        return float(self.times[-1] - start) / (len(self.times) - self.warmup)

    @property
    def wasted(self) -> float:
        """Share of the gradients that were not used, among those that were computed."""
        accepted, late, stale = (int(count.sum()) for count in self.counts)
        return (late + stale) / (accepted + late + stale)

    @property
    def mean_staleness(self) -> float:
        """Mean staleness of the gradients that were used, in updates."""
        return float(np.average(np.arange(len(self.staleness)), weights=self.staleness))

    @property
    def max_staleness(self) -> int:
        """Largest staleness of a gradient that was used, in updates."""
        return len(self.staleness) - 1


def simulate(
    durations: Durations,
    policy: BackupPolicy,
    updates: int,
    *,
    update_s: float = 0.0,
    seed: int = 0,
    warmup: int = 0,
) -> Simulated:
    """Simulate when the updates of a training happen. All workers begin step 0 at time 0.

    Args:
      durations: called as `durations(rng, workers)` with the indices of workers ([n] int64). It
        returns how long the next gradient of each takes ([n], seconds). It is called in the order
        in which each worker computes its gradients; see `delays` for examples.
      policy: N, b and the bound on staleness.
      updates: number of updates to simulate.
      update_s: time from an update's start to its release, in seconds.
      seed: seed of the random numbers. The same arguments give the same result.
      warmup: number of updates that `Simulated.seconds_per_update` leaves out.

    Raises:
      TypeError: if a number has the wrong type.
      ValueError: if an argument is out of range, or if `durations` returns something other than
        positive, finite numbers.
    """
    updates = checked_int("updates", updates)
    warmup = checked_int("warmup", warmup, 0)
    if warmup >= updates:
        raise ValueError(
            f"warmup is {warmup}, but only {updates} update(s) are simulated, so that none is left "
            "to measure. Simulate more updates, or lower warmup."
        )
    progress = _Progress(durations, policy, updates, checked_number("update_s", update_s), seed)
    for update in range(updates):
        progress.make(update)
    progress.finish(updates)
    return Simulated(progress.released, progress.counts, progress.staleness.counts(), warmup)


class _First(NamedTuple):
    """The N gradients that make an update."""

    full: float  # When the last of them arrives.
    mask: Any  # [workers] bool, the workers that they are of
    last: int  # The worker that the last of them is of.


class _Progress:
    """What all workers do, after some number of accepted gradients."""

    def __init__(
        self, durations: Durations, policy: BackupPolicy, updates: int, update_s: float, seed: int
    ) -> None:
        self._durations = durations
        self._replicas = policy.replicas
        bound = policy.max_staleness
        self._bound = ANY_STALENESS if bound is None else bound
        self._update_s = update_s
        self._rng = np.random.default_rng(seed)
        workers = np.arange(policy.workers, dtype=np.int64)
        # What each worker computes, or will compute next if its gradient was accepted.
        self._steps = np.zeros_like(workers)  # [workers] the step that it computes a gradient for
        self._ends = self._draw(workers)  # [workers] when that gradient arrives
        # [workers] how long the gradient after that one takes; NaN until it is drawn.
        self._next = np.full(workers.shape, np.nan)
        self.released = np.empty([updates])
        self.counts = Counts(*(np.zeros_like(workers) for _ in Counts._fields))
        self.staleness = _Histogram()

    def make(self, update: int) -> None:
        """Let workers compute until an update has its N gradients, and make it."""
        first = self._fill(update, horizon=math.inf)
        chosen = np.flatnonzero(first.mask)
        start = max(first.full, self.released[update - 1]) if update else first.full
        self.released[update] = start + self._update_s
        np.add(self.counts.accepted, first.mask, out=self.counts.accepted)
        if self._bound:
            self.staleness.add(update - self._steps[chosen])
        else:
            self.staleness.add_fresh(self._replicas)
        self._steps[chosen] = update + 1
        self._ends[chosen] = self.released[update] + self._draw(chosen)

    def finish(self, updates: int) -> None:
        """Count the gradients that are refused until the last update is released."""
        horizon, update = float(self.released[-1]), updates
        first = self._fill(update, horizon)
        while first.full <= horizon:  # These updates will not be made.
            self._steps[first.mask] = update + 1
            self._ends[first.mask] = math.inf
            update += 1
            first = self._fill(update, horizon)

    def _fill(self, update: int, horizon: float) -> _First:
        """Let workers compute until an update has its N gradients.

        Args:
          update: g, the number of the update.
          horizon: time after which refused gradients are not counted.
        """
        old = np.flatnonzero(self._steps < update - self._bound)
        if not len(old):
            return _first(self._ends, self._replicas)
        ends = self._ends[old]
        current, begins = self._refusals(update, ends)
        arrivals = self._ends.copy()
        # This holds only for those that are refused before the update is full. The others arrive
        # after that anyway.
        arrivals[old] = begins + self._peek(old)
        first = _first(arrivals, self._replicas)
        refused = (ends < first.full) | ((ends == first.full) & (old < first.last))
        refused &= ends <= horizon
        if refused.any():
            old, current = old[refused], current[refused]
            late = self._steps[old] == current
            self.counts.late[old[late]] += 1
            self.counts.stale[old[~late]] += 1
            self._steps[old] = np.minimum(current + 1, update)
            self._ends[old] = arrivals[old]
            self._next[old] = np.nan
        return first

    def _refusals(self, update: int, ends: Floats) -> tuple[Ints, Floats]:
        """Return the current step when workers are refused at `ends`, and when they continue."""
        first = max(update - 1 - self._bound, 0)  # Updates before this one are released.
        current = first + np.searchsorted(self.released[first:update], ends)
        waits = current < update  # An update is under way.
        release = self.released[np.minimum(current, len(self.released) - 1)]
        return current, np.where(waits, release, ends)

    def _peek(self, workers: Ints) -> Floats:
        """Return how long the next gradients of some workers take; draw it if it is not known."""
        unknown = workers[np.isnan(self._next[workers])]
        if len(unknown):
            self._next[unknown] = self._draw(unknown)
        return self._next[workers]

    def _draw(self, workers: Ints) -> Floats:
        return draw(self._durations, self._rng, workers)


def _first(arrivals: Floats, replicas: int) -> _First:
    """Return the N gradients that arrive first; at equal times, those of the first workers."""
    full = float(np.partition(arrivals, replicas - 1)[replicas - 1])
    mask = arrivals <= full
    tied = np.flatnonzero(arrivals == full)
    if len(tied) > 1:
        excess = np.count_nonzero(mask) - replicas
        tied, beyond = np.split(tied, [len(tied) - excess])
        mask[beyond] = False
    return _First(full, mask, int(tied[-1]))


class _Histogram:
    """Number of gradients by staleness."""

    def __init__(self) -> None:
        self._counts = np.zeros([1], np.int64)
        self._waiting: list[Ints] = []
        self._length = 0

    def add(self, staleness: Ints) -> None:
        """Count some more gradients."""
        self._waiting.append(staleness)
        self._length += len(staleness)
        if self._length >= _BUFFERED:
            self.counts()

    def add_fresh(self, number: int) -> None:
        """Count some gradients of staleness 0."""
        self._counts[0] += number

    def counts(self) -> Ints:
        """Return [largest + 1] the number of gradients of each staleness."""
        if self._waiting:
            more = np.bincount(np.concatenate(self._waiting), minlength=len(self._counts))
            more[: len(self._counts)] += self._counts
            self._counts, self._waiting, self._length = more, [], 0
        return self._counts
