"""Decides, once and for all parameter servers, which contributions make up an update.

The gate is a ledger (`protocol.Ledger`) on the first parameter server, and calls that workers
and chief make on it one at a time. It decides nothing itself: each call reads the ledger, applies
a rule (`rules`), and writes the ledger back in one assignment, so that a call that is cut off (its
worker died) has happened whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup._tf import graphs
from tf_backup._tf.named import Name, NamedLock, NamedQueue, NamedVariable
from tf_backup.policy import BackupPolicy
from tf_backup.rules import protocol
from tf_backup.rules.protocol import Ledger
from tf_backup.servers.gate_rules import EXHAUSTED, STOPPED, of_policy, pack, unpacked
from tf_backup.servers.tokens import DEVICE, GATE_SERVER, TokenQueues

Tensor = Any

__all__ = ["EXHAUSTED", "GATE_SERVER", "STOPPED", "Gate"]

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
        self._rules = of_policy(policy)
        ledger = pack(protocol.new_ledger(policy.workers))
        self.tokens = TokenQueues(policy.workers, name / "tokens")
        self._lock = NamedLock(GATE_SERVER, name / "lock")
        self._ledger = NamedVariable(GATE_SERVER, name / "ledger", tf.int64, ledger.shape)
        self._events = NamedQueue(
            GATE_SERVER, name / "events", [tf.int64], [[4, policy.replicas]], _EVENTS
        )
        self._ledger.assign(ledger)
        for call in ("open_run", "close_run", "settle", "stop", "expire", "tick"):
            setattr(self, call, graphs.function(getattr(self, call)))

    @property
    def resources(self) -> list[Any]:
        """What workers find by name."""
        return [self._lock, self._ledger, self._events, *self.tokens.resources]

    # ---- For workers --------------------------------------------------------------------------

    def admit(self, worker: Tensor, life: Tensor, run: Tensor) -> Tensor:
        """Returns the place of a worker ([]), `protocol.NO_PLACE` or `STOP`."""
        return self._changed(self._rules.admit, worker, life, run)

    def enter(self, place: Tensor, life: Tensor, run: Tensor) -> tuple[Tensor, Tensor]:
        """A worker's loop starts at its place; waits until there is something to do.

        Returns:
          What to do next, and a number that no other entry has.
        """
        then, entry = tf.unstack(self._changed(self._rules.enter, place, life, run), 2)
        return self.tokens.resolve(place, entry, then), entry

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

        def body() -> Tensor:
            ledger, then, events = self._rules.offer(
                self._ledger.read_value(), place, entry, run, step, ticket
            )
            # Were this call cut off between the two, the next tick would tell the chief.
            with tf.control_dependencies([self._write(ledger)]):
                told = self._events.put_many(events)
            with tf.control_dependencies([told]):
                return tf.identity(then)

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
        return self._release(self._rules.advance, tf.cast(last, tf.int64))

    # ---- For the coordinator ------------------------------------------------------------------

    def open_run(self, step: Tensor) -> Tensor:
        """Begins a run at step t = `step`; returns its number."""

        def body() -> Tensor:
            ledger, run = self._rules.open_run(self._ledger.read_value(), step)
            with tf.control_dependencies([self._events.drain(), self._write(ledger)]):
                return tf.identity(run)

        return self._locked(body)

    def stop(self) -> Tensor:
        """Ends the chief's loop, if it waits for a step to be complete."""
        with tf.device(DEVICE), tf.control_dependencies([self._events.put(self.sign(STOPPED))]):
            return tf.constant(True)

    def close_run(self) -> Tensor:
        """Ends the run in the middle of a step, if it has not ended. The chief's loop is over."""
        return self._release(self._rules.close_run)

    def settle(self) -> Tensor:
        """Counts as lost what will not come back."""
        return self._changed(self._rules.settle)

    def expire(self, gone: Tensor) -> Tensor:
        """Ends the entries of workers that are gone.

        Args:
          gone: [places] int64: the number of the life that is gone, 0 for none.
        """
        return self._release(self._rules.expire, gone)

    def tick(self) -> Tensor:
        """Tells the chief's loop once more what a call that was cut off may not have.

        Returns:
          The ledger, as `unpacked` reads it.
        """

        def body() -> Tensor:
            # A full queue would block inside the lock.
            room = tf.cast(self._events.size() < _EVENTS // 2, tf.int64)
            ledger, events = self._rules.tick(self._ledger.read_value(), room)
            with tf.control_dependencies([self._events.put_many(events)]):
                return tf.identity(ledger)

        return self._locked(body)

    def ledger(self) -> Ledger:
        """Returns the ledger as it is now, in NumPy."""
        return unpacked(self._ledger.numpy())

    # ---- Plumbing -----------------------------------------------------------------------------

    def _locked(self, body: Callable[[], Tensor]) -> Tensor:
        """Runs `body` on the parameter server, when nobody else runs one."""
        with tf.device(DEVICE):
            return self._lock.holding(body)

    def _changed(self, rule: Callable[..., Any], *args: Tensor) -> Tensor:
        """Applies a rule, and returns what it returns beside the ledger."""

        def body() -> Tensor:
            ledger, answer = rule(self._ledger.read_value(), *args)
            with tf.control_dependencies([self._write(ledger)]):
                return tf.identity(answer)

        return self._locked(body)

    def _release(self, rule: Callable[..., Any], *args: Tensor) -> Tensor:
        """Applies a rule that hands out tokens; returns the number of updates made."""

        def body() -> Tensor:
            ledger, step, tokens, sizes, events = rule(self._ledger.read_value(), *args)
            with tf.control_dependencies([self._write(ledger)]):
                put = self.tokens.put(tokens, sizes)
            with tf.control_dependencies(put):
                told = self._events.put_many(events)
            with tf.control_dependencies([told]):
                return tf.identity(step)

        return self._locked(body)

    def _write(self, ledger: Tensor) -> Any:
        return self._ledger.assign(ledger, read_value=False)
