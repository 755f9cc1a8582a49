"""The gate's rules as TensorFlow functions.

`protocol` and `places` define the rules. Here they work on a ledger packed into one array. Tracing
a rule takes a tenth of a second, so a process traces each once per N, b and bound on staleness,
and all engines share it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup.policy import BackupPolicy
from tf_backup.rules import places, protocol
from tf_backup.rules.protocol import Ledger

Tensor = Any

_TENSORS = protocol.Arrays(where=tf.where, sum=tf.reduce_sum, min=tf.reduce_min)
_FIELDS = [*protocol.SCALARS, *protocol.VECTORS]

# Events that the chief's loop waits for: that a step t >= 0 is complete, or one of these.
# [4, N]: the step (or sign) in all places, the tickets, their places, and their staleness.
EXHAUSTED, STOPPED = -1, -2


@functools.cache
def of_policy(policy: BackupPolicy) -> Rules:
    """Returns the rules of a policy, the same object each time."""
    return Rules(policy)


class Rules:
    """The rules, each a `tf.function` of int64 tensors.

    Each takes the packed ledger ([fields, places]), then scalars unless its docstring says
    otherwise. Each returns the packed ledger after the call, then what its docstring says. Of that,

    * `events` ([n, 4, N], where n is 0, 1 or 2) are for the chief's loop;
    * `tokens` ([places, 2]) are pairs of an entry and the token for it;
    * `sizes` ([places, 2]) are [1, 2] for a place that gets its token, and [0, 2] for one that gets
      none.

    Args:
      policy: N, b, and the bound on staleness.
    """

    def __init__(self, policy: BackupPolicy) -> None:
        self._places, self._replicas = policy.workers, policy.replicas
        bound = policy.max_staleness
        self._max_staleness = protocol.ANY_STALENESS if bound is None else bound
        self._queues = bound != 0  # Whether contributions may wait for a later step.
        self.admit = self._traced(self._admit, 3)
        self.enter = self._traced(self._enter, 3)
        self.offer = self._traced(self._offer, 5)
        self.advance = self._traced(self._advance, 1)
        self.open_run = self._traced(self._open_run, 1)
        self.close_run = self._traced(self._close_run, 0)
        self.settle = self._traced(self._settle, 0)
        self.expire = self._traced(self._expire, 0, [policy.workers])
        self.tick = self._traced(self._tick, 1)

    # ---- For workers --------------------------------------------------------------------------

    def _admit(self, packed: Tensor, worker: Tensor, life: Tensor, run: Tensor) -> Any:
        """Returns the worker's place."""
        indices = tf.range(self._places, dtype=tf.int64)
        ledger, place = places.admit(unpacked(packed), indices, worker, life, run, _TENSORS)
        return pack(ledger), place

    def _enter(self, packed: Tensor, place: Tensor, life: Tensor, run: Tensor) -> Any:
        """Returns what the worker is to do next, and the number of its entry ([2])."""
        ledger, then = places.enter(
            unpacked(packed), self._me(place), life, run, self._replicas, _TENSORS
        )
        return pack(ledger), tf.stack([then, ledger.entries])

    def _offer(
        self,
        packed: Tensor,
        place: Tensor,
        entry: Tensor,
        run: Tensor,
        step: Tensor,
        ticket: Tensor,
    ) -> Any:
        """Returns what the worker is to do next, and events.

        A worker without more data offers `protocol.STOP` as its step.
        """
        ledger, me = unpacked(packed), self._me(place)
        offered, _, then, complete = protocol.offer(
            ledger,
            me,
            entry,
            run,
            step,
            ticket,
            self._replicas,
            self._max_staleness,
            _TENSORS,
        )
        left, exhausted = protocol.leave(ledger, me, entry, run, self._replicas, _TENSORS)
        leaves = tf.equal(step, protocol.STOP)
        ledger = tf.nest.map_structure(
            lambda a, b: a if a is b else tf.where(leaves, a, b), left, offered
        )
        events = self._events(ledger, complete & ~leaves, exhausted & leaves)
        return pack(ledger), tf.where(leaves, np.int64(protocol.STOP), then), events

    # ---- For the chief's loop -----------------------------------------------------------------

    def _advance(self, packed: Tensor, last: Tensor) -> Any:
        """Returns the number of updates made, tokens, sizes and events.

        If this was the `last` update (1, else 0), the run ends.
        """
        before = unpacked(packed)
        go_on, tokens = protocol.advance(before, _TENSORS)
        go_home, stops = protocol.close_run(before, True, _TENSORS)
        ends = last > 0
        ledger, tokens = tf.nest.map_structure(
            lambda a, b: a if a is b else tf.where(ends, a, b), (go_home, stops), (go_on, tokens)
        )
        return self._released(before, ledger, tokens)

    # ---- For the coordinator ------------------------------------------------------------------

    def _open_run(self, packed: Tensor, step: Tensor) -> Any:
        """Returns the number of the run."""
        ledger = protocol.open_run(unpacked(packed), step, _TENSORS)
        return pack(ledger), ledger.run

    def _close_run(self, packed: Tensor) -> Any:
        """Returns the number of updates made, tokens, sizes and events."""
        before = unpacked(packed)
        return self._released(before, *protocol.close_run(before, False, _TENSORS))

    def _settle(self, packed: Tensor) -> Any:
        """Returns the number of updates made."""
        ledger = protocol.settle(unpacked(packed), _TENSORS)
        return pack(ledger), ledger.step

    def _expire(self, packed: Tensor, gone: Tensor) -> Any:
        """Returns the number of updates made, tokens, sizes and events.

        `gone` ([places]) are the numbers of the lives that are over, 0 for none.
        """
        before = unpacked(packed)
        mask = (gone > 0) & tf.equal(gone, before.life)  # Meanwhile another life may have come.
        return self._released(before, *places.expire(before, mask, _TENSORS))

    def _tick(self, packed: Tensor, room: Tensor) -> Any:
        """Returns the events of the present state once more, if there is `room` (1, else 0)."""
        ledger = unpacked(packed)
        complete = protocol.complete(ledger, self._replicas, _TENSORS)
        exhausted = protocol.exhausted(ledger, self._replicas, _TENSORS)
        there = room > 0
        return packed, self._events(ledger, complete & there, exhausted & ~complete & there)

    # ---- Parts --------------------------------------------------------------------------------

    def _traced(self, rule: Callable[..., Any], scalars: int, *shapes: list[int]) -> Any:
        """Returns a rule that takes so many scalars, and then vectors of these shapes."""
        specs = [tf.TensorSpec([len(_FIELDS), self._places], tf.int64)]
        specs += [tf.TensorSpec([], tf.int64)] * scalars
        specs += [tf.TensorSpec(shape, tf.int64) for shape in shapes]
        return tf.function(rule, input_signature=specs, autograph=False)

    def _me(self, place: Tensor) -> Tensor:
        """Returns the mask of one place ([places] bool)."""
        return tf.equal(tf.range(self._places, dtype=tf.int64), place)

    def _released(self, before: Ledger, ledger: Ledger, tokens: Tensor) -> Any:
        """Returns what a rule that hands out tokens returns."""
        # What waits in the queue may be enough for the next update.
        complete = protocol.complete(ledger, self._replicas, _TENSORS) if self._queues else None
        events = self._events(ledger, complete)
        wanted = tf.cast(tf.not_equal(tokens, protocol.WAIT), tf.int64)
        sizes = tf.stack([wanted, wanted * 0 + 2], axis=1)
        return pack(ledger), ledger.step, tf.stack([before.entry, tokens], axis=1), sizes, events

    def _events(self, ledger: Ledger, complete: Any, exhausted: Any = None) -> Tensor:
        """Returns the events ([n, 4, N]) that step t is complete, and that it cannot be completed.

        Args:
          ledger: the state after the call.
          complete: [] bool, whether to return the first; None for never.
          exhausted: [] bool, whether to return the second; None for never.
        """
        shape = [4, self._replicas]
        told = []
        if complete is not None:
            whose = tf.where(protocol.used(ledger))[:, 0]
            whose = tf.concat([whose, tf.zeros([self._replicas], tf.int64)], axis=0)
            whose = whose[: self._replicas]
            parts = [
                tf.fill([self._replicas], ledger.step),
                tf.gather(ledger.ticket, whose),
                whose,
                tf.gather(ledger.staleness, whose),
            ]
            told.append(_if(complete, tf.stack(parts)))
        if exhausted is not None:
            told.append(_if(exhausted, tf.fill(shape, np.int64(EXHAUSTED))))
        return tf.concat([tf.zeros([0, *shape], tf.int64), *told], axis=0)


def _if(condition: Tensor, event: Tensor) -> Tensor:
    """Returns the event ([1, 4, N]) if the condition is true, else none ([0, 4, N])."""
    return tf.tile(event[None], tf.stack([tf.cast(condition, tf.int32), 1, 1]))


def pack(ledger: Ledger) -> Any:
    """Returns a ledger of tensors or NumPy arrays as one ([fields, places]); repeats scalars."""
    if isinstance(ledger.status, np.ndarray):
        return np.stack([field + ledger.status * 0 for field in ledger])
    scalars = tf.stack([getattr(ledger, name) for name in protocol.SCALARS])
    vectors = tf.stack([getattr(ledger, name) for name in protocol.VECTORS])
    scalars = tf.broadcast_to(scalars[:, None], [len(protocol.SCALARS), vectors.shape[1]])
    return tf.concat([scalars, vectors], axis=0)


def unpacked(packed: Any) -> Ledger:
    """Returns the ledger in an array that `pack` has made, in TensorFlow or NumPy."""
    count = len(protocol.SCALARS)
    if isinstance(packed, np.ndarray):
        return Ledger(*packed[:count, 0], *packed[count:])
    return Ledger(*tf.unstack(packed[:count, 0]), *tf.unstack(packed)[count:])
