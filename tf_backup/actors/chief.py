"""The chief's loop, which makes updates from N gradients each and runs on the servers.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 2 and 4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_backup._tf import client_calls, graphs, runtime
from tf_backup._tf.cut import Cut
from tf_backup.annotations import Tensor
from tf_backup.objective import Objective
from tf_backup.servers import permits, placement
from tf_backup.servers.accumulator import Accumulator
from tf_backup.servers.arrival_log import now
from tf_backup.servers.contribution import Combined, Contribution
from tf_backup.servers.event import ROW, ROWS, STOPPED
from tf_backup.servers.gate import GATE_SERVER, Gate
from tf_backup.servers.ledger_changes import Times
from tf_backup.servers.permits import Permits
from tf_backup.servers.reports import Reports
from tf_backup.servers.snapshot import Snapshot
from tf_backup.servers.tokens import DEVICE

log = logging.getLogger(__name__)


class Chief:
    """The loop that makes updates, from the start of a run to its end.

    Each turn takes the mean of N gradients, updates the variables, publishes the parameters and
    releases the workers. It runs on the parameter servers; the coordinator only gives permits and
    reads reports. With one server, an update is one function call there. With several, each takes
    and publishes its own part, and only what the optimizer needs from others crosses in between.

    Args:
      objective: the objective whose variables are updated.
      snapshot: snapshot of the variables that workers read.
      contribution: format of the workers' results.
      accumulator: accumulator where contributions wait.
      gate: gate that decides which contributions make an update, and releases the workers.
      permits: permits for updates.
      reports: queue of reports on updates.
      alone: whether there is only one parameter server.
    """

    def __init__(
        self,
        objective: Objective,
        snapshot: Snapshot,
        contribution: Contribution,
        accumulator: Accumulator,
        gate: Gate,
        permits: Permits,
        reports: Reports,
        alone: bool,
    ) -> None:
        self._objective = objective
        self._snapshot = snapshot
        self._contribution = contribution
        self._accumulator = accumulator
        self._gate = gate
        self._permits = permits
        self._reports = reports
        self._alone = alone
        self._traced: Any = None
        self.loop = client_calls.function(self._loop)

    def _loop(self, step: Tensor) -> Tensor:
        """Make updates until told to stop, or until too few workers have data left.

        Args:
          step: [] int64, the number of updates made so far.

        Returns:
          [] int64, the number of updates made.
        """

        def body(step: Tensor, event: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            make = self._update_alone if self._alone else self._update
            step, event, last = graphs.here(make(event, last))
            step.set_shape([])
            event.set_shape([ROWS, self._gate.policy.replicas])
            last.set_shape([])
            return step, event, last

        def whole(step: Tensor) -> Tensor:
            with tf.device(DEVICE):
                event, last = self._next(step)
                step, event, _ = tf.while_loop(
                    lambda step, event, last: event[ROW.step, 0] >= 0,
                    body,
                    [tf.identity(step), event, last],
                    parallel_iterations=1,
                )
                with tf.control_dependencies([self._reports.put_end(event)]):
                    return tf.identity(step)

        return graphs.on_server(GATE_SERVER, whole, step) if self._alone else whole(step)

    def _next(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Wait on the gate's server for a permit and then until step t is complete.

        Returns:
          The event, and whether the update is the run's last ([] bool).
        """

        def at_gate(step: Tensor) -> tuple[Tensor, Tensor]:
            permit = self._permits.take()
            with tf.control_dependencies([permit]):
                event = tf.cond(
                    tf.equal(permit, permits.HALT),
                    lambda: self._gate.sign(STOPPED),
                    lambda: self._gate.next_event(step),
                )
            return event, tf.equal(permit, permits.LAST)

        event, last = graphs.on_server(GATE_SERVER, at_gate, step)
        event.set_shape([ROWS, self._gate.policy.replicas])
        last.set_shape([])
        return event, last

    def _update_alone(self, event: Tensor, last: Tensor) -> Any:
        """Make an update on the only server; return the result of `_release`."""

        def at_server(event: Tensor, last: Tensor) -> Any:
            began = now()
            taken, found = self._take(GATE_SERVER, event[ROW.tickets])
            with tf.control_dependencies(taken):
                all_taken = now()
            with graphs.changing() as written:
                results = self._objective.update(self._contribution.totals([found]))
            with tf.control_dependencies(written):
                times = Times(began, all_taken, applied=now())
            # Wait for all writes: the next step looks up rows of tables, which are in no snapshot.
            done = tf.group(*taken, *written, *self._snapshot.write(GATE_SERVER))
            with tf.control_dependencies([done]):
                return self._release(event, last, results, times)

        return graphs.on_server(GATE_SERVER, at_server, event, last)

    def _update(self, event: Tensor, last: Tensor) -> Any:
        """Make an update across servers; return the result of `_release`."""
        results, done = self._whole()(event)

        def at_gate(event: Tensor, last: Tensor, results: Any, done: list[Tensor]) -> Any:
            with tf.control_dependencies(done):
                unknown = Times(*[tf.constant(-1, tf.int64)] * 3)  # Each server has its own.
                return self._release(event, last, results, unknown)

        # Release only after every server has taken the contributions to step t, also those that
        # publish nothing. Otherwise a late server could clear away contributions to step t + 1.
        return graphs.on_server(GATE_SERVER, at_gate, event, last, results, done)

    def _whole(self) -> Callable[[Tensor], tuple[Any, list[Tensor]]]:
        """Return a function that makes an update, cut into as few calls per server as possible."""
        event = tf.TensorSpec([ROWS, self._gate.policy.replicas], tf.int64)
        traced = tf.function(
            lambda event: self._at_servers(event)[0], autograph=False
        ).get_concrete_function(event)
        # Keep a reference: its branches are deleted with it, and the parts call them by name.
        self._traced = traced
        structure = traced.structured_outputs
        try:
            parts = Cut(traced)
        except ValueError as error:
            log.debug("An update is not cut into one function per server: %s", error)
            return self._one_by_one

        def whole(event: Tensor) -> tuple[Any, list[Tensor]]:
            results, done = parts(event)
            return tf.nest.pack_sequence_as(structure, results), done

        return whole

    def _one_by_one(self, event: Tensor) -> tuple[Any, list[Tensor]]:
        """Make an update across servers, operation by operation."""
        results, written = self._at_servers(event)
        with tf.control_dependencies(written):
            return results, [tf.constant(True)]

    def _at_servers(self, event: Tensor) -> tuple[Any, list[Any]]:
        """Take contributions, update variables and publish, each on the server that it is for.

        Returns:
          The objective's results, and the operations to wait for.
        """
        found: list[Combined] = []
        done: list[Any] = []
        for ps in self._contribution.servers:
            with tf.device(runtime.ps_device(ps)):
                taken, combined = self._take(ps, event[ROW.tickets])
                found.append(combined)
                done += taken
        with placement.with_its_inputs(), graphs.changing() as written:
            results = self._objective.update(self._contribution.totals(found))
        done += written
        for ps in self._snapshot.layout.servers:
            done += self._snapshot.write(ps)
        return results, done

    def _take(self, ps: int, tickets: Tensor) -> tuple[list[Tensor], Combined]:
        """Take N contributions out of the accumulator of a server; called on that server.

        Returns:
          Tensors that are ready once the contributions are taken, and the server's part of the
          totals.
        """
        if ps not in self._contribution.servers:
            return [], {}
        policy = self._gate.policy
        parts = self._accumulator.take(tf.unstack(tickets, policy.replicas), ps, policy.least)
        count: Any = policy.replicas
        if policy.least < policy.replicas:
            count = tf.math.count_nonzero(tickets >= 0, dtype=tf.int32)
        return [part[0] for part in parts], self._contribution.combine(parts, ps, count)

    def _release(self, event: Tensor, last: Tensor, results: Any, times: Times) -> Any:
        """Report the update, release the workers, and wait for the next event.

        Args:
          event: the event of the update.
          last: [] bool, whether the run ends with it.
          results: the objective's results.
          times: for the log.

        Returns:
          t + 1, the event, and whether the next update is the last.
        """
        with tf.control_dependencies([self._reports.put(event, results)]):
            step = self._gate.complete_step(last, times)
        with tf.control_dependencies([step]):
            event, last = tf.cond(
                last,
                lambda: (self._gate.sign(STOPPED), tf.constant(True)),
                lambda: self._next(step),
            )
        return step, event, last
