"""Decides, once and for all parameter servers, which contributions make up an update.

The gate is a ledger (`protocol.Ledger`) on the first parameter server, and calls that workers
and chief make on it one at a time. It decides nothing itself: each call reads the ledger, asks
`protocol`, and writes the ledger back in one assignment, so that a call that is cut off (its
worker died) has happened whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup import _tf_graph, places, protocol
from tf_backup._tf_named import Name, NamedLock, NamedQueue, NamedVariable
from tf_backup.policy import BackupPolicy
from tf_backup.protocol import Ledger
from tf_backup.tokens import DEVICE, GATE_SERVER, TokenQueues

Tensor = Any

__all__ = ["EXHAUSTED", "GATE_SERVER", "STOPPED", "Gate"]

_TENSORS = protocol.Arrays(where=tf.where, sum=tf.reduce_sum, min=tf.reduce_min)

# Events that the chief's loop waits for: that a step t >= 0 is complete, or one of these.
# [4, N]: the step (or sign) in all places, the tickets, their places, and their staleness.
EXHAUSTED, STOPPED = -1, -2

_EVENTS = 1024  # More than ever wait; one is told again only while less than half of them do.


class Gate:
    """The ledger on the first parameter server, and the queue of events for the chief's loop.

    All int64. Methods for workers and for the chief's loop are called in a graph; those for the
    coordinator eagerly.

    Args:
      policy: N, b, and the bound on staleness.
      name: of its resources on the server.
    """

    def __init__(self, policy: BackupPolicy, name: Name) -> None:
        self.policy = policy
        bound = policy.max_staleness
        self._max_staleness = protocol.ANY_STALENESS if bound is None else bound
        ledger = _pack(protocol.new_ledger(policy.workers))
        self.tokens = TokenQueues(policy.workers, name / "tokens")
        self._lock = NamedLock(GATE_SERVER, name / "lock")
        self._ledger = NamedVariable(GATE_SERVER, name / "ledger", tf.int64, ledger.shape)
        self._events = NamedQueue(
            GATE_SERVER, name / "events", [tf.int64], [[4, policy.replicas]], _EVENTS
        )
        self._ledger.assign(ledger)
        for call in ("open_run", "close_run", "settle", "stop", "expire", "tick"):
            setattr(self, call, _tf_graph.function(getattr(self, call)))

    @property
    def resources(self) -> list[Any]:
        """What workers find by name."""
        return [self._lock, self._ledger, self._events, *self.tokens.resources]

    # ---- For workers --------------------------------------------------------------------------

    def admit(self, worker: Tensor, life: Tensor, run: Tensor) -> Tensor:
        """Returns the place of a worker ([]), `protocol.NO_PLACE` or `STOP`."""

        def body() -> Tensor:
            indices = tf.range(self.policy.workers, dtype=tf.int64)
            ledger, place = places.admit(self._read(), indices, worker, life, run, _TENSORS)
            with tf.control_dependencies([self._write(ledger)]):
                return tf.identity(place)

        return self._locked(body)

    def enter(self, place: Tensor, life: Tensor, run: Tensor) -> tuple[Tensor, Tensor]:
        """A worker's loop starts at its place; waits until there is something to do.

        Returns:
          What to do next, and a number that no other entry has.
        """

        def body() -> Tensor:
            ledger, then = places.enter(
                self._read(), self._me(place), life, run, self.policy.replicas, _TENSORS
            )
            with tf.control_dependencies([self._write(ledger)]):
                return tf.stack([then, ledger.entries])

        answer = self._locked(body)
        return self.tokens.resolve(place, answer[1], answer[0]), answer[1]

    def offer(
        self, place: Tensor, entry: Tensor, run: Tensor, step: Tensor, ticket: Tensor
    ) -> Tensor:
        """A worker's gradient lies on every server; waits until there is something to do.

        Args:
          place: [], the worker's place.
          entry: [], the number of its entry.
          run: [], that it works for.
          step: [], that the gradient was computed at; `protocol.STOP` from a worker that has no
            more data, and hence no gradient.
          ticket: [], under which the gradient lies.

        Returns:
          What to do next ([]).
        """
        replicas = self.policy.replicas

        def body() -> Tensor:
            ledger, me = self._read(), self._me(place)
            offered, _, then, complete = protocol.offer(
                ledger, me, entry, run, step, ticket, replicas, self._max_staleness, _TENSORS
            )
            left, exhausted = protocol.leave(ledger, me, entry, run, replicas, _TENSORS)
            leaves = tf.equal(step, protocol.STOP)
            ledger = tf.nest.map_structure(lambda a, b: tf.where(leaves, a, b), left, offered)
            # Were this call cut off between the two, the next tick would tell the chief.
            with tf.control_dependencies([self._write(ledger)]):
                told = [
                    self._announce(ledger, complete & ~leaves),
                    self._sign(EXHAUSTED, exhausted & leaves),
                ]
            with tf.control_dependencies(told):
                return tf.where(leaves, np.int64(protocol.STOP), then)

        return self.tokens.resolve(place, entry, self._locked(body))

    # ---- For the chief's loop -----------------------------------------------------------------

    def next_event(self, step: Tensor) -> Tensor:
        """Waits until step t = `step` is complete, or for a sign; returns the event ([4, N])."""

        def wanted(event: Tensor) -> Tensor:
            # A tick may have told of an earlier step a second time.
            return tf.equal(event[0, 0], step) | (event[0, 0] < 0)

        with tf.device(DEVICE):
            return tf.while_loop(
                lambda event: ~wanted(event),
                lambda event: [self._events.take()[0]],
                [self._events.take()[0]],
            )[0]

    def sign(self, code: int) -> Tensor:
        """Returns an event ([4, N]) that is only a sign."""
        return tf.fill([4, self.policy.replicas], np.int64(code))

    def complete_step(self, last: Tensor) -> Tensor:
        """Step t is updated and published: releases the workers into step t + 1.

        Args:
          last: [] bool, whether to end the run instead and send the workers home.

        Returns:
          [], the number of updates made.
        """

        def rule(ledger: Ledger) -> tuple[Ledger, Tensor]:
            go_on = protocol.advance(ledger, _TENSORS)
            go_home = protocol.close_run(ledger, True, _TENSORS)
            pick = tf.nest.map_structure(lambda a, b: tf.where(last, a, b), go_home, go_on)
            return pick[0], pick[1]

        return self._release(rule)

    # ---- For the coordinator ------------------------------------------------------------------

    def open_run(self, step: Tensor) -> Tensor:
        """Begins a run at step t = `step`; returns its number."""

        def body() -> Tensor:
            ledger = protocol.open_run(self._read(), step, _TENSORS)
            with tf.control_dependencies([self._events.drain(), self._write(ledger)]):
                return tf.identity(ledger.run)

        return self._locked(body)

    def stop(self) -> Tensor:
        """Ends the chief's loop, if it waits for a step to be complete."""
        with tf.device(DEVICE), tf.control_dependencies([self._events.put(self.sign(STOPPED))]):
            return tf.constant(True)

    def close_run(self) -> Tensor:
        """Ends the run in the middle of a step, if it has not ended. The chief's loop is over."""
        return self._release(lambda ledger: protocol.close_run(ledger, False, _TENSORS))

    def settle(self) -> Tensor:
        """Counts as lost what will not come back."""

        def body() -> Tensor:
            ledger = protocol.settle(self._read(), _TENSORS)
            with tf.control_dependencies([self._write(ledger)]):
                return tf.identity(ledger.step)

        return self._locked(body)

    def expire(self, gone: Tensor) -> Tensor:
        """Ends the entries of workers that are gone.

        Args:
          gone: [places] int64: the number of the life that is gone, 0 for none.
        """

        def rule(ledger: Ledger) -> tuple[Ledger, Tensor]:
            # Meanwhile another life may have come.
            mask = (gone > 0) & tf.equal(gone, ledger.life)
            return places.expire(ledger, mask, _TENSORS)

        return self._release(rule)

    def tick(self) -> Tensor:
        """Tells the chief's loop once more what a call that was cut off may not have.

        Returns:
          The ledger, as `unpacked` reads it.
        """

        def body() -> Tensor:
            ledger = self._read()
            complete = protocol.complete(ledger, self.policy.replicas, _TENSORS)
            exhausted = protocol.exhausted(ledger, self.policy.replicas, _TENSORS)
            # A full queue would block inside the lock.
            room = self._events.size() < _EVENTS // 2
            done = [
                self._announce(ledger, complete & room),
                self._sign(EXHAUSTED, exhausted & ~complete & room),
            ]
            with tf.control_dependencies(done):
                return _pack(ledger, tf.stack)

        return self._locked(body)

    def ledger(self) -> Ledger:
        """Returns the ledger as it is now, in NumPy."""
        return unpacked(self._ledger.numpy())

    # ---- Plumbing -----------------------------------------------------------------------------

    def _locked(self, body: Callable[[], Tensor]) -> Tensor:
        """Runs `body` on the parameter server, when nobody else runs one."""
        with tf.device(DEVICE):
            return self._lock.holding(body)

    def _release(self, rule: Callable[[Ledger], tuple[Ledger, Tensor]]) -> Tensor:
        """Applies a rule that hands out tokens."""

        def body() -> Tensor:
            before = self._read()
            ledger, tokens = rule(before)
            with tf.control_dependencies([self._write(ledger)]):
                put = self.tokens.put(before.entry, tokens)
            if self.policy.max_staleness != 0:
                # What waits in the queue may be enough for the next update.
                with tf.control_dependencies(put):
                    complete = protocol.complete(ledger, self.policy.replicas, _TENSORS)
                    put = [self._announce(ledger, complete)]
            with tf.control_dependencies(put):
                return tf.identity(ledger.step)

        return self._locked(body)

    def _announce(self, ledger: Ledger, complete: Tensor) -> Any:
        """Tells the chief that step t is complete, and what it is made of, if it is."""
        replicas = self.policy.replicas
        whose = tf.where(protocol.used(ledger))[:, 0]
        whose = tf.concat([whose, tf.zeros([replicas], tf.int64)], axis=0)[:replicas]
        tickets = tf.gather(ledger.ticket, whose)
        staleness = tf.gather(ledger.staleness, whose)
        step = tf.fill([replicas], ledger.step)
        return self._tell(tf.stack([step, tickets, whose, staleness]), complete)

    def _sign(self, code: int, when: Tensor) -> Any:
        """Puts an event that is only a sign into the chief's queue, if `when` ([] bool)."""
        return self._tell(self.sign(code), when)

    def _tell(self, event: Tensor, when: Tensor) -> Any:
        return self._events.put_many(tf.boolean_mask(event[None], when[None]))  # None or one.

    def _read(self) -> Ledger:
        return unpacked(tf.unstack(self._ledger.read_value()))

    def _write(self, ledger: Ledger) -> Any:
        return self._ledger.assign(_pack(ledger, tf.stack), read_value=False)

    def _me(self, place: Tensor) -> Tensor:
        """Returns the mask of one place ([places] bool)."""
        return tf.equal(tf.range(self.policy.workers, dtype=tf.int64), place)


def _pack(ledger: Ledger, stack: Any = np.stack) -> Any:
    """Returns a ledger as one array ([scalars + vectors, places]; scalars are repeated)."""
    zeros = ledger.status * 0
    scalars = [getattr(ledger, name) + zeros for name in protocol.SCALARS]
    return stack(scalars + [getattr(ledger, name) for name in protocol.VECTORS])


def unpacked(rows: Any) -> Ledger:
    """Returns the ledger of what `_pack` has packed, row by row."""
    scalars = {name: rows[row][0] for row, name in enumerate(protocol.SCALARS)}
    vectors = {
        name: rows[row] for row, name in enumerate(protocol.VECTORS, start=len(protocol.SCALARS))
    }
    return Ledger(**scalars, **vectors)
