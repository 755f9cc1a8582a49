"""The gate on a virtual clock: the rules of `rules.protocol`, one event after another.

This is the direct way to find out which gradients make which updates. It is slower than `timing`,
which has the same result, but says of every gradient when it arrived and what became of it.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from typing import Any, Protocol

import numpy as np

from tf_backup.checks import checked_int, checked_number
from tf_backup.policy import BackupPolicy
from tf_backup.rules import places, protocol
from tf_backup.rules.protocol import ANY_STALENESS, Ledger
from tf_backup.simulation.delays import Durations, Ints, draw
from tf_backup.timeline import schema

_RUN = np.int64(1)
_VERDICTS = {
    protocol.LATE: schema.LATE,
    protocol.STALE: schema.STALE,
    protocol.NONFINITE: schema.NONFINITE,
}


class Work(Protocol):
    """What workers do with their batches."""

    def compute(self, worker: int, step: int) -> bool:
        """Compute a worker's gradient at theta(step), which the gate accepts if it is finite.

        Returns:
          Whether it is finite.
        """

    def skip(self, worker: int) -> None:
        """Leave out the computation of a gradient that the gate does not use."""


class NoWork:
    """Workers that compute nothing, for what happens when."""

    def compute(self, worker: int, step: int) -> bool:
        """Return that the gradient is finite."""
        return True

    def skip(self, worker: int) -> None:
        """Do nothing."""


@dataclasses.dataclass(frozen=True)
class Made:
    """An update.

    Attributes:
      step: t, the number of updates before it.
      time: when it was released, in virtual seconds.
      workers: the N workers whose gradients it used, in the order in which these arrived.
      staleness: the staleness of each.
    """

    step: int
    time: float
    workers: tuple[int, ...]
    staleness: tuple[int, ...]


class VirtualGate:
    """N + b workers and their gate.

    At equal times, workers offer in the order of their indices, and before an update is released.

    Args:
      durations: how long workers compute; see `delays`. It may be replaced while time stands still.
      policy: N, b and the bound on staleness.
      update_s: time from an update's start to its release, in seconds.
      seed: seed of the random numbers that `durations` draws.
      step: the number of updates made before.

    Attributes:
      ledger: the state of the gate.
      time: when the last update was released, in virtual seconds.
      contributions: rows of `schema.CONTRIBUTION`, by when their fates were known.
      updates: rows of `schema.UPDATE`.
    """

    def __init__(
        self, durations: Durations, policy: BackupPolicy, update_s: float, seed: int, step: int = 0
    ) -> None:
        self.durations = durations
        self.time = 0.0
        self.contributions: list[tuple[int, ...]] = []
        self.updates: list[tuple[int, ...]] = []
        self._policy = policy
        bound = policy.max_staleness
        self._bound = ANY_STALENESS if bound is None else bound
        self._update_s = update_s
        self._rng = np.random.default_rng(seed)
        self._places = np.arange(policy.workers)
        self._tickets = 0
        self._ends: list[tuple[float, int]] = []  # A heap: when a worker's gradient arrives.
        self._steps = np.zeros([policy.workers], np.int64)  # The step of that gradient.
        self._began = np.zeros([policy.workers])  # When the worker began it.
        self._arrived = np.zeros([policy.workers])  # When its last gradient arrived.
        self._started, self._release = math.inf, math.inf  # Of the update under way.
        self.ledger = protocol.open_run(protocol.new_ledger(policy.workers), np.int64(step))
        for worker in self._places:
            self._enter(worker)
        self._begin(self._places, 0.0, int(self.ledger.step))

    @property
    def step(self) -> int:
        """t, the number of updates made so far."""
        return int(self.ledger.step)

    @property
    def steps_under_way(self) -> set[int]:
        """The steps that workers compute gradients for."""
        return set(self._steps[self.ledger.status == protocol.COMPUTING].tolist())

    def update(self, work: Work) -> Made:
        """Let workers compute until the next update is released, and return it."""
        while self._ends and self._ends[0][0] <= self._release:
            self._offer(work)
        return self._advance()

    def timeline(self, model: str = "") -> schema.Timeline:
        """Return what has happened so far. The clock's start is the beginning of 1970.

        Args:
          model: name of the model.
        """
        policy = self._policy
        settings = schema.Settings(
            policy.replicas, policy.backups, policy.max_staleness, model=model, session="virtual"
        )
        return schema.Timeline(
            settings,
            np.array(self.contributions, schema.CONTRIBUTION),
            np.array(self.updates, schema.UPDATE),
        )

    def _enter(self, worker: Any) -> None:
        life = worker + 1
        self.ledger, _ = places.admit(self.ledger, self._places, worker, life, _RUN)
        me = self._places == worker
        self.ledger, _ = places.enter(self.ledger, me, life, _RUN, self._policy.replicas)

    def _begin(self, workers: Ints, now: float, step: int) -> None:
        """Let workers begin to compute gradients for a step."""
        self._steps[workers] = step
        self._began[workers] = now
        seconds = draw(self.durations, self._rng, workers)
        for worker, end in zip(workers.tolist(), (now + seconds).tolist(), strict=True):
            heapq.heappush(self._ends, (end, worker))

    def _offer(self, work: Work) -> None:
        """Let the gate decide about the next gradient, and its worker continue."""
        now, worker = self._ends[0]
        step = int(self._steps[worker])
        ledger, verdict, then, complete = self._decide(worker, step, finite=1)
        if verdict != protocol.ACCEPTED:
            work.skip(worker)
        elif not work.compute(worker, step):
            ledger, verdict, then, complete = self._decide(worker, step, finite=0)
        heapq.heappop(self._ends)  # Only now, since the work may raise an error.
        self.ledger = ledger
        self._arrived[worker] = now
        if verdict == protocol.ACCEPTED:
            self._tickets += 1
        else:
            self._note(worker, step, schema.UNKNOWN, _VERDICTS[int(verdict)])
        if complete and self._release == math.inf:
            self._start(now)
        if then >= 0:
            self._begin(np.array([worker]), now, int(then))

    def _decide(self, worker: int, step: int, finite: int) -> tuple[Ledger, Any, Any, Any]:
        return protocol.offer(
            self.ledger,
            self._places == worker,
            self.ledger.entry[worker],
            _RUN,
            np.int64(step),
            np.int64(self._tickets),
            self._policy.replicas,
            self._bound,
            np.int64(finite),
        )

    def _start(self, now: float) -> None:
        self._started, self._release = now, now + self._update_s

    def _advance(self) -> Made:
        """Make the update under way, and release the workers that wait for it."""
        step, now = self.step, self._release
        used = np.flatnonzero(protocol.used(self.ledger))
        used = used[np.argsort(self.ledger.ticket[used])]
        staleness = self.ledger.staleness[used].tolist()
        for worker in used.tolist():
            self._note(worker, int(self._steps[worker]), step, schema.ACCEPTED)
        started, released = _microseconds(self._started), _microseconds(now)
        self.updates.append((int(_RUN), step, started, started, released, released))
        self.time = now
        self.ledger, tokens = protocol.advance(self.ledger)
        if protocol.complete(self.ledger, self._policy.replicas):
            self._start(now)
        else:
            self._started, self._release = math.inf, math.inf
        self._begin(np.flatnonzero(tokens >= 0), now, self.step)
        return Made(step, now, tuple(used.tolist()), tuple(staleness))

    def _note(self, worker: int, step: int, update: int, verdict: int) -> None:
        """Add a row of `schema.CONTRIBUTION`."""
        began, arrived = float(self._began[worker]), float(self._arrived[worker])
        times = (_microseconds(began), _microseconds(arrived), _microseconds(arrived - began))
        self.contributions.append((int(_RUN), step, update, worker, worker, verdict, *times))


def simulated_timeline(
    durations: Durations,
    policy: BackupPolicy,
    updates: int,
    *,
    update_s: float = 0.0,
    seed: int = 0,
) -> schema.Timeline:
    """Return the timeline of a training in which no gradient is really computed.

    Args:
      durations: how long workers compute; see `delays`.
      policy: N, b and the bound on staleness.
      updates: number of updates.
      update_s: time from an update's start to its release, in seconds.
      seed: seed of the random numbers that `durations` draws.

    Raises:
      TypeError: if a number has the wrong type.
      ValueError: if an argument is out of range, or `durations` returns what it must not.
    """
    gate = VirtualGate(durations, policy, checked_number("update_s", update_s), seed)
    for _ in range(checked_int("updates", updates)):
        gate.update(NoWork())
    return gate.timeline()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
