"""The gate's rules as TensorFlow functions.

`protocol` and `places` define the rules. Here they work on a ledger packed into one array. Tracing
a rule takes a tenth of a second. So a process traces each rule once per N, b and bound on
staleness, and all engines share it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup.annotations import Tensor
from tf_backup.policy import BackupPolicy
from tf_backup.rules import places, protocol, shortage
from tf_backup.rules.protocol import Ledger
from tf_backup.servers.event import EXHAUSTED, ROWS, Event

# The array functions with which the rules run on tensors.
TENSORS = protocol.Arrays(where=tf.where, sum=tf.reduce_sum, min=tf.reduce_min)
_FIELDS = [*protocol.SCALARS, *protocol.VECTORS]


@functools.cache
def of_policy(policy: BackupPolicy) -> Rules:
    """Return the rules of a policy; the same object for the same policy."""
    return Rules(policy)


class Rules:
    """The rules, each a `tf.function` of int64 tensors.

    Each takes the packed ledger ([fields, places]), then scalars unless its docstring says
    otherwise. Each returns the packed ledger after the call, then the values that its docstring
    names. Among them,

    * `events` ([n, ROWS, N], where n is 0, 1 or 2) are for the chief's loop;
    * `tokens` ([places, 2]) are pairs of an entry and the token for it;
    * `sizes` ([places, 2]) are [1, 2] for a place that gets its token, else [0, 2].

    Args:
      policy: N, b, and the bound on staleness.
    """

    def __init__(self, policy: BackupPolicy) -> None:
        self._places, self._replicas = policy.workers, policy.replicas
        self._fixed = policy.least == policy.replicas
        bound = policy.max_staleness
        self._max_staleness = protocol.ANY_STALENESS if bound is None else bound
        self._queues = bound != 0  # Whether contributions may wait for a later step.
        self._fills = policy.fill
        self.admit = self._traced(self._admit, 3)
        self.enter = self._traced(self._enter, 3)
        self.offer = self._traced(self._offer, 6)
        self.advance = self._traced(self._advance, 1)
        self.open_run = self._traced(self._open_run, 1)
        self.close_run = self._traced(self._close_run, 0)
        self.settle = self._traced(self._settle, 0)
        self.expire = self._traced(self._expire, 0, [policy.workers])
        self.tick = self._traced(self._tick, 1)
        self.resize = self._traced(self._resize, 1)
        self.set_quota = self._traced(self._set_quota, 1)

    # ---- For workers --------------------------------------------------------------------------

    def _admit(self, packed: Tensor, worker: Tensor, life: Tensor, run: Tensor) -> Any:
        """Return the worker's place."""
        ledger, place = places.admit(unpacked(packed), self._indices(), worker, life, run, TENSORS)
        return pack(ledger), place

    def _enter(self, packed: Tensor, place: Tensor, life: Tensor, run: Tensor) -> Any:
        """Return the next action, the number of the entry, and that of gradients in ([3])."""
        ledger, me = unpacked(packed), self._me(place)
        ledger, then = places.enter(ledger, me, life, run, self._wanted(ledger), TENSORS)
        queued = protocol.at(ledger.queued, me, TENSORS)
        return pack(ledger), tf.stack([then, ledger.entries, queued])

    def _offer(
        self,
        packed: Tensor,
        place: Tensor,
        entry: Tensor,
        run: Tensor,
        step: Tensor,
        ticket: Tensor,
        finite: Tensor,
    ) -> Any:
        """Return the worker's next action, and events.

        A worker without more data offers `protocol.STOP` as its step.
        """
        ledger, me = unpacked(packed), self._me(place)
        offered, verdict, then, complete = protocol.offer(
            ledger,
            me,
            entry,
            run,
            step,
            ticket,
            self._wanted(ledger),
            self._max_staleness,
            finite,
            TENSORS,
        )
        if self._fills:
            offered, then = shortage.continue_step(
                ledger, offered, self._indices(), me, verdict, then, self._replicas, TENSORS
            )
        left, exhausted = protocol.leave(ledger, me, entry, run, self._wanted(ledger), TENSORS)
        leaves = tf.equal(step, protocol.STOP)
        ledger = tf.nest.map_structure(
            lambda a, b: a if a is b else tf.where(leaves, a, b), left, offered
        )
        events = self._events(ledger, complete & ~leaves, exhausted & leaves)
        return pack(ledger), tf.where(leaves, np.int64(protocol.STOP), then), events

    # ---- For the chief's loop -----------------------------------------------------------------

    def _advance(self, packed: Tensor, last: Tensor) -> Any:
        """Return the number of updates made, tokens, sizes and events.

        The run ends if this was the `last` update (1, else 0).
        """
        before = unpacked(packed)
        go_on, tokens = protocol.advance(before, TENSORS)
        go_home, stops = protocol.close_run(before, True, TENSORS)
        ends = last > 0
        ledger, tokens = tf.nest.map_structure(
            lambda a, b: a if a is b else tf.where(ends, a, b), (go_home, stops), (go_on, tokens)
        )
        return self._released(before, ledger, tokens)

    # ---- For the coordinator ------------------------------------------------------------------

    def _open_run(self, packed: Tensor, step: Tensor) -> Any:
        """Return the number of the run."""
        ledger = protocol.open_run(unpacked(packed), step, TENSORS)
        return pack(ledger), ledger.run

    def _close_run(self, packed: Tensor) -> Any:
        """Return the number of updates made, tokens, sizes and events."""
        before = unpacked(packed)
        return self._released(before, *protocol.close_run(before, False, TENSORS))

    def _settle(self, packed: Tensor) -> Any:
        """Return the number of updates made."""
        ledger = protocol.settle(unpacked(packed), TENSORS)
        return pack(ledger), ledger.step

    def _expire(self, packed: Tensor, gone: Tensor) -> Any:
        """Return the number of updates made, tokens, sizes and events.

        `gone` ([places]) has the number of the life that has ended at each place, or 0.
        """
        before = unpacked(packed)
        mask = (gone > 0) & tf.equal(gone, before.life)  # A new life may be there by now.
        return self._released(before, *places.expire(before, mask, TENSORS))

    def _tick(self, packed: Tensor, room: Tensor) -> Any:
        """Return the events of the current state again, if there is `room` (1, else 0)."""
        ledger = unpacked(packed)
        complete = protocol.complete(ledger, self._wanted(ledger), TENSORS)
        exhausted = protocol.exhausted(ledger, self._wanted(ledger), TENSORS)
        there = room > 0
        return packed, self._events(ledger, complete & there, exhausted & ~complete & there)

    def _resize(self, packed: Tensor, wanted: Tensor) -> Any:
        """Return the step, and events."""
        ledger, completes = shortage.resize(unpacked(packed), wanted, TENSORS)
        return pack(ledger), ledger.step, self._events(ledger, completes)

    def _set_quota(self, packed: Tensor, quota: Tensor) -> Any:
        """Return the number of updates made, tokens, sizes and events."""
        before = unpacked(packed)
        changed = shortage.set_quota(before, quota, self._replicas, TENSORS)
        return self._released(before, *changed)

    # ---- Parts --------------------------------------------------------------------------------

    def _traced(self, rule: Callable[..., Any], scalars: int, *shapes: list[int]) -> Any:
        """Return a traced rule that takes `scalars` scalars, and then vectors of `shapes`."""
        specs = [tf.TensorSpec([len(_FIELDS), self._places], tf.int64)]
        specs += [tf.TensorSpec([], tf.int64)] * scalars
        specs += [tf.TensorSpec(shape, tf.int64) for shape in shapes]
        return tf.function(rule, input_signature=specs, autograph=False)

    def _wanted(self, ledger: Ledger) -> Any:
        """Return the number of gradients that make an update."""
        return self._replicas if self._fixed else ledger.replicas

    def _me(self, place: Tensor) -> Tensor:
        """Return the mask of one place ([places] bool)."""
        return tf.equal(self._indices(), place)

    def _indices(self) -> Tensor:
        return tf.range(self._places, dtype=tf.int64)

    def _released(self, before: Ledger, ledger: Ledger, tokens: Tensor) -> Any:
        """Return the results of a rule that hands out tokens."""
        # The queue may already hold enough contributions for the next update.
        wanted = self._wanted(ledger)
        complete = protocol.complete(ledger, wanted, TENSORS) if self._queues else None
        events = self._events(ledger, complete)
        wanted = tf.cast(tf.not_equal(tokens, protocol.WAIT), tf.int64)
        sizes = tf.stack([wanted, wanted * 0 + 2], axis=1)
        return pack(ledger), ledger.step, tf.stack([before.entry, tokens], axis=1), sizes, events

    def _events(self, ledger: Ledger, complete: Any, exhausted: Any = None) -> Tensor:
        """Return the events that step t is complete, and that it cannot be completed.

        Args:
          ledger: the ledger after the call.
          complete: [] bool, whether to return the first event; None for never.
          exhausted: [] bool, whether to return the second event; None for never.
        """
        shape = [ROWS, self._replicas]
        events = []
        if complete is not None:
            events.append(_if(complete, tf.stack(list(self._completed(ledger)))))
        if exhausted is not None:
            events.append(_if(exhausted, tf.fill(shape, np.int64(EXHAUSTED))))
        return tf.concat([tf.zeros([0, *shape], tf.int64), *events], axis=0)

    def _completed(self, ledger: Ledger) -> Event:
        """Return the event that step t is complete."""
        tickets, places = self._used(ledger)
        event = Event(
            step=tf.fill([self._replicas], ledger.step),
            tickets=tickets,
            places=places,
            staleness=tf.gather(ledger.staleness, places),
        )
        if self._fixed:
            return event
        there = tf.range(self._replicas, dtype=tf.int64) < protocol.inside(ledger, TENSORS)
        return Event(event.step, *[tf.where(there, row, np.int64(-1)) for row in event[1:]])

    def _used(self, ledger: Ledger) -> tuple[Tensor, Tensor]:
        """Return the tickets and places of the contributions to step t ([N] each, or padded)."""
        whose = tf.where(protocol.used(ledger))[:, 0]
        padding = tf.zeros([self._replicas], tf.int64)
        if not self._fills:
            whose = tf.concat([whose, padding], axis=0)[: self._replicas]
            return tf.gather(ledger.ticket, whose), whose
        extras = protocol.inside(ledger, TENSORS) - tf.size(whose, tf.int64)
        tickets = [tf.gather(ledger.ticket, whose), ledger.extra_ticket[:extras], padding]
        whose = tf.concat([whose, ledger.extra_place[:extras], padding], axis=0)
        return tf.concat(tickets, axis=0)[: self._replicas], whose[: self._replicas]


def _if(condition: Tensor, event: Tensor) -> Tensor:
    """Return the event ([1, ROWS, N]) if the condition is true, else none ([0, ROWS, N])."""
    return tf.tile(event[None], tf.stack([tf.cast(condition, tf.int32), 1, 1]))


def pack(ledger: Ledger) -> Any:
    """Pack a ledger (TensorFlow or NumPy) into [fields, places], with scalars repeated."""
    if isinstance(ledger.status, np.ndarray):
        return np.stack([field + ledger.status * 0 for field in ledger])
    scalars = tf.stack([getattr(ledger, name) for name in protocol.SCALARS])
    vectors = tf.stack([getattr(ledger, name) for name in protocol.VECTORS])
    scalars = tf.broadcast_to(scalars[:, None], [len(protocol.SCALARS), vectors.shape[1]])
    return tf.concat([scalars, vectors], axis=0)


def unpacked(packed: Any) -> Ledger:
    """Return the ledger that `pack` has packed, in TensorFlow or NumPy."""
    count = len(protocol.SCALARS)
    if isinstance(packed, np.ndarray):
        return Ledger(*packed[:count, 0], *packed[count:])
    return Ledger(*tf.unstack(packed[:count, 0]), *tf.unstack(packed)[count:])
