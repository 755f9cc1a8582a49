"""Decides, once and for all parameter servers, which contributions make up an update.

The gate is a ledger (`protocol.Ledger`) on the first parameter server, and calls that workers
and chief make on it one at a time. It decides nothing itself: each call reads the ledger, asks
`protocol`, and writes the ledger back in one assignment, so that a call that is cut off (its
worker died) has happened whole or not at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup import _tf_graph, protocol
from tf_backup.policy import BackupPolicy
from tf_backup.protocol import Ledger
from tf_backup.tokens import DEVICE, GATE_SERVER, TokenQueues

Tensor = Any

__all__ = ["EXHAUSTED", "GATE_SERVER", "TICK", "Gate"]

_TENSORS = protocol.Arrays(where=tf.where, sum=tf.reduce_sum)

# Events that the chief waits for; a step t >= 0 means that step t is complete.
# [4, N]: the step (or sign) in all places, the tickets, their workers, and their staleness.
TICK, EXHAUSTED = -1, -2

_EVENTS = 1024  # More than ever wait; a tick is left out when half of them do.


class Gate:
    """The ledger on the first parameter server, and the queue of events for the chief.

    All int64. Methods that take `worker` are for workers, in a graph; `complete_step` is for
    the chief's update, in a graph; the rest is called eagerly by the coordinator.

    Args:
      policy: N, b, and the bound on staleness.
    """

    def __init__(self, policy: BackupPolicy) -> None:
        self.policy = policy
        bound = policy.max_staleness
        self._max_staleness = protocol.ANY_STALENESS if bound is None else bound
        self.tokens = TokenQueues(policy.workers)
        for name in ("open_run", "close_run", "settle", "next_event", "tick"):
            setattr(self, name, _tf_graph.function(getattr(self, name)))
        name = f"tf_backup/gate/{uuid.uuid4().hex}"
        with tf.device(DEVICE):
            self._ledger = tf.Variable(
                _pack(protocol.new_ledger(policy.workers)), trainable=False, dtype=tf.int64
            )
            # CriticalSection loses assignments unless its body is one tf.function.
            self._lock = tf.CriticalSection(shared_name=name)
            self._events = tf.queue.FIFOQueue(
                _EVENTS, [tf.int64], [[4, policy.replicas]], shared_name=f"{name}/events"
            )

    # ---- For workers --------------------------------------------------------------------------

    def enter(self, worker: Tensor, run: Tensor) -> tuple[Tensor, Tensor]:
        """A worker's loop starts; waits until there is something to do.

        Returns:
          What to do next, and a number that no other entry has.
        """

        def body() -> Tensor:
            # Tokens are only ever handed out inside the lock: none can slip in after this.
            with tf.control_dependencies([self.tokens.drain(worker)]):
                ledger, then = protocol.enter(
                    self._read(), self._me(worker), run, self.policy.replicas, _TENSORS
                )
            with tf.control_dependencies([self._write(ledger)]):
                return tf.stack([then, ledger.entries])

        answer = self._locked(body)
        return self.tokens.resolve(worker, answer[0]), answer[1]

    def offer(self, worker: Tensor, run: Tensor, step: Tensor, ticket: Tensor) -> Tensor:
        """A worker's gradient lies on every server; waits until there is something to do.

        Args:
          worker: [], its index.
          run: [], that it works for.
          step: [], that the gradient was computed at; `protocol.STOP` from a worker that has no
            more data, and hence no gradient.
          ticket: [], under which the gradient lies.

        Returns:
          What to do next ([]).
        """

        def body() -> Tensor:
            ledger, me = self._read(), self._me(worker)
            offered, _, then, complete = protocol.offer(
                ledger, me, run, step, ticket, self.policy.replicas, self._max_staleness, _TENSORS
            )
            left, exhausted = protocol.leave(ledger, me, run, self.policy.replicas, _TENSORS)
            leaves = tf.equal(step, protocol.STOP)
            ledger = tf.nest.map_structure(lambda a, b: tf.where(leaves, a, b), left, offered)
            # Were this call cut off between the two, the next tick would tell the chief.
            with tf.control_dependencies([self._write(ledger)]):
                told = [
                    self._announce(ledger, complete & ~leaves),
                    self._sign(np.int64(EXHAUSTED), exhausted & leaves),
                ]
            with tf.control_dependencies(told):
                return tf.where(leaves, np.int64(protocol.STOP), then)

        return self.tokens.resolve(worker, self._locked(body))

    # ---- For the chief's update ---------------------------------------------------------------

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
            drop = self._events.dequeue_many(self._events.size())  # An earlier run's.
            with tf.control_dependencies([drop, self._write(ledger)]):
                return tf.identity(ledger.run)

        return self._locked(body)

    def close_run(self) -> Tensor:
        """Ends the run in the middle of a step, if it has not ended."""
        return self._release(lambda ledger: protocol.close_run(ledger, False, _TENSORS))

    def settle(self) -> Tensor:
        """Counts as lost what will not come home."""

        def body() -> Tensor:
            ledger = protocol.settle(self._read(), _TENSORS)
            with tf.control_dependencies([self._write(ledger)]):
                return tf.identity(ledger.step)

        return self._locked(body)

    def next_event(self) -> Tensor:
        """Waits for an event; returns it ([4, N]).

        Returns:
          The step that is complete, in all places, and of its N contributions the tickets, the
          workers, and how many updates old each is; or a sign, in all places.
        """
        with tf.device(DEVICE):
            return self._events.dequeue()

    def tick(self) -> Tensor:
        """Wakes the chief, and tells it once more what a call that was cut off may not have."""

        def body() -> Tensor:
            ledger = self._read()
            complete = protocol.complete(ledger, self.policy.replicas, _TENSORS)
            exhausted = protocol.exhausted(ledger, self.policy.replicas, _TENSORS)
            code = tf.where(exhausted, np.int64(EXHAUSTED), np.int64(TICK))
            # A full queue would block inside the lock.
            room = self._events.size() < _EVENTS // 2
            done = [
                self._announce(ledger, complete & room),
                self._sign(code, ~complete & room),
            ]
            with tf.control_dependencies(done):
                return tf.identity(code)

        return self._locked(body)

    def ledger(self) -> Ledger:
        """Returns the ledger as it is now, in NumPy."""
        return _unpack(self._ledger.numpy())

    # ---- Plumbing -----------------------------------------------------------------------------

    def _locked(self, body: Callable[[], Tensor]) -> Tensor:
        """Runs `body` on the parameter server, when nobody else runs one."""
        with tf.device(DEVICE):
            return self._lock.execute(lambda: tf.function(body, autograph=False)())

    def _release(self, rule: Callable[[Ledger], tuple[Ledger, Tensor]]) -> Tensor:
        """Applies a rule that hands out tokens."""

        def body() -> Tensor:
            ledger, tokens = rule(self._read())
            with tf.control_dependencies([self._write(ledger)]):
                put = self.tokens.put(tokens)
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
        workers = tf.where(protocol.used(ledger))[:, 0]
        workers = tf.concat([workers, tf.zeros([replicas], tf.int64)], axis=0)[:replicas]
        tickets = tf.gather(ledger.ticket, workers)
        staleness = tf.gather(ledger.staleness, workers)
        step = tf.fill([replicas], ledger.step)
        return self._tell(tf.stack([step, tickets, workers, staleness]), complete)

    def _sign(self, code: Any, when: Tensor) -> Any:
        """Puts an event that is only a sign into the chief's queue, if `when` ([] bool)."""
        return self._tell(tf.fill([4, self.policy.replicas], code), when)

    def _tell(self, event: Tensor, when: Tensor) -> Any:
        # Of no events or one: TensorFlow warns of a tf.cond in the chief's update.
        return self._events.enqueue_many(tf.boolean_mask(event[None], when[None]))

    def _read(self) -> Ledger:
        return _unpack(self._ledger.read_value())

    def _write(self, ledger: Ledger) -> Any:
        return self._ledger.assign(_pack(ledger, tf.stack), read_value=False)

    def _me(self, worker: Tensor) -> Tensor:
        """Returns the mask of one worker ([workers] bool)."""
        return tf.equal(tf.range(self.policy.workers, dtype=tf.int64), worker)


def _pack(ledger: Ledger, stack: Any = np.stack) -> Any:
    """Returns a ledger as one array ([scalars + vectors, workers]; scalars are repeated)."""
    scalars = [getattr(ledger, name) + ledger.status * 0 for name in protocol.SCALARS]
    return stack(scalars + [getattr(ledger, name) for name in protocol.VECTORS])


def _unpack(array: Any) -> Ledger:
    """Returns the ledger that `_pack` has packed."""
    scalars = {name: array[row, 0] for row, name in enumerate(protocol.SCALARS)}
    vectors = {
        name: array[row] for row, name in enumerate(protocol.VECTORS, start=len(protocol.SCALARS))
    }
    return Ledger(**scalars, **vectors)
