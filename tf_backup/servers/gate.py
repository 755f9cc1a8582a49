"""Gate that decides, for all parameter servers together, which contributions make an update.

The gate is a ledger (`protocol.Ledger`) on the first parameter server, and calls on it by the
workers and the chief, which run one at a time. Each call reads the ledger, applies a rule from
`gate_rules`, and writes the ledger back in one assignment. So a call that is interrupted, because
its worker died, has taken effect fully or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup._tf import client_calls
from tf_backup._tf.named import Name, NamedLock, NamedQueue, NamedVariable
from tf_backup.annotations import Tensor
from tf_backup.policy import BackupPolicy
from tf_backup.rules import protocol
from tf_backup.rules.protocol import Ledger
from tf_backup.servers.arrival_log import ArrivalLog
from tf_backup.servers.event import ROW, ROWS, STOPPED
from tf_backup.servers.gate_rules import of_policy, pack, unpacked
from tf_backup.servers.ledger_changes import Offer, Times
from tf_backup.servers.tokens import DEVICE, GATE_SERVER, TokenQueues

__all__ = ["GATE_SERVER", "Gate"]

_EVENTS = 1024  # More than ever wait, as events are repeated only while fewer than half wait.


class Gate:
    """The ledger on the first parameter server, and the queue of events for the chief's loop.

    All tensors are int64.

    Args:
      policy: N, b, and the bound on staleness.
      name: name of its resources on the server.
      logs: whether to log when gradients arrive.

    Attributes:
      log: log of gradients and updates; None unless `logs`.
    """

    def __init__(self, policy: BackupPolicy, name: Name, logs: bool = True) -> None:
        self.policy = policy
        self._rules = of_policy(policy)
        ledger = pack(protocol.new_ledger(policy.workers, policy.replicas))
        self.tokens = TokenQueues(policy.workers, name / "tokens")
        self._lock = NamedLock(GATE_SERVER, name / "lock")
        self._ledger = NamedVariable(GATE_SERVER, name / "ledger", tf.int64, ledger.shape)
        self._events = NamedQueue(
            GATE_SERVER, name / "events", [tf.int64], [[ROWS, policy.replicas]], _EVENTS
        )
        self._ledger.assign(ledger)
        self.log = ArrivalLog(policy.workers, name / "log") if logs else None

    @property
    def resources(self) -> list[Any]:
        """The resources that workers find by name."""
        log = self.log.resources if self.log is not None else []
        return [self._lock, self._ledger, self._events, *self.tokens.resources, *log]

    # ---- For workers, in a graph --------------------------------------------------------------

    def admit(self, worker: Tensor, life: Tensor, run: Tensor) -> Tensor:
        """Admit a worker, and return its place ([]), `protocol.NO_PLACE` or `STOP`."""
        return self._changed(self._rules.admit, worker, life, run)

    def enter(self, place: Tensor, life: Tensor, run: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Start a worker's loop at its place, and wait for its next action.

        Returns:
          The next action, the unique number of the entry, and the number of contributions that the
          place had made to the current step before.
        """
        answer = self._changed(self._rules.enter, place, life, run)
        then, entry, queued = tf.unstack(answer, 3)
        return self.tokens.resolve(place, entry, then), entry, queued

    def offer(
        self,
        place: Tensor,
        entry: Tensor,
        run: Tensor,
        step: Tensor,
        ticket: Tensor,
        finite: Tensor,
        compute: Tensor,
    ) -> Tensor:
        """Offer a worker's gradient that is on every server, and wait for the next action.

        Args:
          place: [], the worker's place.
          entry: [], the number of its entry.
          run: [], the run that it works in.
          step: [], the step that the gradient was computed at; `protocol.STOP` from a worker that
            has no more data, and hence no gradient.
          ticket: [], the ticket of the gradient.
          finite: [], 1, or 0 for a gradient with NaN or Inf, which is on no server.
          compute: [], microseconds that the worker took, for the log.

        Returns:
          The worker's next action ([]).
        """

        def body() -> Tensor:
            before = self._ledger.read_value()
            ledger, then, events = self._rules.offer(
                before, place, entry, run, step, ticket, finite
            )
            # If this call is interrupted between the two, the next tick repeats the events.
            with tf.control_dependencies([self._write(ledger)]):
                sent = self._events.put_many(events)
            with tf.control_dependencies([sent]):
                logged = self._note(before, ledger, Offer(place, run, step, compute))
            with tf.control_dependencies([sent, *logged]):
                return tf.identity(then)

        return self.tokens.resolve(place, entry, self._locked(body))

    # ---- For the chief's loop, in a graph -----------------------------------------------------

    def next_event(self, step: Tensor) -> Tensor:
        """Wait for the event of step t = `step` or one without a step; return it."""

        def wanted(event: Tensor) -> Tensor:
            # A tick may have repeated the event of an earlier step.
            return tf.equal(event[ROW.step, 0], step) | (event[ROW.step, 0] < 0)

        with tf.device(DEVICE):
            return tf.while_loop(
                lambda event: ~wanted(event),
                lambda event: [self._events.take()[0]],
                [self._events.take()[0]],
            )[0]

    def sign(self, code: int) -> Tensor:
        """Return an event without a step, such as STOPPED."""
        return tf.fill([ROWS, self.policy.replicas], np.int64(code))

    def complete_step(self, last: Tensor, times: Times | None = None) -> Tensor:
        """Hand out tokens for step t + 1, after the update from step t is made and published.

        Args:
          last: [] bool, whether to end the run instead and tell the workers to stop.
          times: of the update, for the log.

        Returns:
          [], the number of updates made.
        """
        packed = None if times is None else tf.stack(list(times))
        return self._release(self._rules.advance, tf.cast(last, tf.int64), times=packed)

    # ---- For the coordinator, eagerly ---------------------------------------------------------

    @client_calls.called_eagerly
    def open_run(self, step: Tensor) -> Tensor:
        """Start a run at step t = `step`, and return its number."""

        def body() -> Tensor:
            ledger, run = self._rules.open_run(self._ledger.read_value(), step)
            with tf.control_dependencies([self._events.drain(), self._write(ledger)]):
                return tf.identity(run)

        return self._locked(body)

    @client_calls.called_eagerly
    def stop(self) -> Tensor:
        """End the chief's loop, if it waits for a step to be complete."""
        with tf.device(DEVICE), tf.control_dependencies([self._events.put(self.sign(STOPPED))]):
            return tf.constant(True)

    @client_calls.called_eagerly
    def close_run(self) -> Tensor:
        """End the run in the middle of a step, if it has not ended, after the chief's loop has."""
        return self._release(self._rules.close_run)

    @client_calls.called_eagerly
    def settle(self) -> Tensor:
        """Count contributions that are still under way as lost."""
        return self._changed(self._rules.settle)

    @client_calls.called_eagerly
    def expire(self, gone: Tensor) -> Tensor:
        """End the entries of workers whose lives have ended.

        Args:
          gone: [places] int64: the number of the life that has ended at each place, or 0.
        """
        return self._release(self._rules.expire, gone)

    @client_calls.called_eagerly
    def tick(self) -> Tensor:
        """Repeat the current events to the chief's loop, in case a call was interrupted.

        Returns:
          The packed ledger, which `unpacked` reads.
        """

        def body() -> Tensor:
            # A full queue would block inside the lock.
            room = tf.cast(self._events.size() < _EVENTS // 2, tf.int64)
            ledger, events = self._rules.tick(self._ledger.read_value(), room)
            with tf.control_dependencies([self._events.put_many(events)]):
                return tf.identity(ledger)

        return self._locked(body)

    @client_calls.called_eagerly
    def resize(self, wanted: Tensor) -> Tensor:
        """Change the number of gradients that make an update, and return the current step."""

        def body() -> Tensor:
            ledger, step, events = self._rules.resize(self._ledger.read_value(), wanted)
            with tf.control_dependencies([self._write(ledger)]):
                sent = self._events.put_many(events)
            with tf.control_dependencies([sent]):
                return tf.identity(step)

        return self._locked(body)

    @client_calls.called_eagerly
    def set_quota(self, quota: Tensor) -> Tensor:
        """Change how often a worker may contribute to a step; return the number of updates made."""
        return self._release(self._rules.set_quota, quota)

    def ledger(self) -> Ledger:
        """Return the current ledger, in NumPy."""
        return unpacked(self._ledger.fetch())

    # ---- Plumbing -----------------------------------------------------------------------------

    def _locked(self, body: Callable[[], Tensor]) -> Tensor:
        """Run `body` on the parameter server, one call at a time."""
        with tf.device(DEVICE):
            return self._lock.holding(body)

    def _changed(self, rule: Callable[..., Any], *args: Tensor) -> Tensor:
        """Apply a rule, and return its result besides the ledger."""

        def body() -> Tensor:
            before = self._ledger.read_value()
            ledger, answer = rule(before, *args)
            with tf.control_dependencies([self._write(ledger), *self._note(before, ledger)]):
                return tf.identity(answer)

        return self._locked(body)

    def _release(
        self, rule: Callable[..., Any], *args: Tensor, times: Tensor | None = None
    ) -> Tensor:
        """Apply a rule that hands out tokens, and return the number of updates made.

        Args:
          rule: the rule.
          args: its arguments.
          times: [3] `Times` of the update, if the rule counts one.
        """

        def body() -> Tensor:
            before = self._ledger.read_value()
            ledger, step, tokens, sizes, events = rule(before, *args)
            with tf.control_dependencies([self._write(ledger)]):
                put = self.tokens.put(tokens, sizes)
            with tf.control_dependencies(put):
                sent = self._events.put_many(events)
            with tf.control_dependencies([sent]):
                logged = self._note(before, ledger, times=times)
            with tf.control_dependencies([sent, *logged]):
                return tf.identity(step)

        return self._locked(body)

    def _note(
        self,
        before: Tensor,
        after: Tensor,
        offer: Offer | None = None,
        times: Tensor | None = None,
    ) -> list[Any]:
        """Log what a call has changed, if there is a log, and return the operations."""
        if self.log is None:
            return []
        if times is not None:
            return self.log.note_update(before, after, times)
        return self.log.note(before, after, offer)

    def _write(self, ledger: Tensor) -> Any:
        return self._ledger.assign(ledger, read_value=False)
