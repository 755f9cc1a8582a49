"""The worker's loop, which computes gradients and delivers them to the parameter servers.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 1 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf import client_calls, graphs
from tf_backup.annotations import Tensor
from tf_backup.rules import protocol
from tf_backup.servers.accumulator import Accumulator
from tf_backup.servers.arrival_log import now
from tf_backup.servers.contribution import Contribution
from tf_backup.servers.gate import GATE_SERVER, Gate
from tf_backup.servers.packing import Key
from tf_backup.servers.snapshot import Snapshot

Buffers = list[Tensor]  # Of the snapshot (one per key of its layout), or of a contribution.

_TICKETS_PER_ENTRY = 2**32


class Message(NamedTuple):
    """The arguments of `Gate.offer`; they travel as one tensor ([7] int64)."""

    place: Tensor
    entry: Tensor
    run: Tensor
    step: Tensor
    ticket: Tensor
    finite: Tensor
    compute: Tensor


_AT = Message(*range(len(Message._fields)))  # Index of each number, as in `message[_AT.step]`.


def _unpacked(message: Tensor) -> Message:
    return Message(*tf.unstack(message, len(Message._fields)))


class Worker:
    """The loop that each worker runs from the start of a run to its end.

    The chief traces it, and every worker runs it in its own process. Each turn computes a gradient
    at theta(t), puts a part of the contribution on each parameter server, asks the gate, waits for
    the next token, and reads each server's part of theta(t + 1). On the first server, putting,
    asking, waiting and reading are one call. On each other server, putting and reading are one
    call each.

    Args:
      compute: concrete function of the objective.
      snapshot: snapshot of the variables that `compute` reads.
      contribution: format in which results are sent.
      accumulator: accumulator that results are sent to.
      gate: gate that decides which contributions are used.
      on_nonfinite: what to do with a gradient that has NaN or Inf: "drop", "raise" or "keep".
    """

    def __init__(
        self,
        compute: Any,
        snapshot: Snapshot,
        contribution: Contribution,
        accumulator: Accumulator,
        gate: Gate,
        on_nonfinite: str = "keep",
    ) -> None:
        self._on_nonfinite = on_nonfinite
        self._compute = compute
        self._snapshot = snapshot
        self._contribution = contribution
        self._accumulator = accumulator
        self._gate = gate
        self._fills = gate.policy.fill
        self.loop = client_calls.function(self._loop)

    def functions(self, element_spec: Any) -> dict[str, Any]:
        """Return the concrete functions that a worker process runs, by name.

        Args:
          element_spec: spec of the batches.
        """
        number = tf.TensorSpec([], tf.int64)
        admit = client_calls.function(self._admit)
        batches = tf.data.IteratorSpec(element_spec)
        return {
            "admit": admit.get_concrete_function(number, number, number),
            "loop": self.loop.get_concrete_function(number, number, number, batches),
        }

    def _admit(self, worker: Tensor, life: Tensor, run: Tensor) -> Tensor:
        """Return the place of a worker; see `Gate.admit`."""
        return graphs.on_server(GATE_SERVER, self._gate.admit, worker, life, run)

    def _loop(self, place: Tensor, life: Tensor, run: Tensor, iterator: Any) -> Tensor:
        """Work until told to stop, or until there is no more data.

        Args:
          place: [] int64, the worker's place.
          life: [] int64, the number of the worker's life.
          run: [] int64, the run to work for.
          iterator: iterator over the worker's batches.

        Returns:
          [] int64, the reason for the end: `protocol.STOP` or `EXPELLED`.
        """

        def body(step: Tensor, ticket: Tensor, number: Tensor, theta: Buffers) -> Any:
            with tf.control_dependencies([step]):
                began = now()
            # The end of the data must end the loop, not raise. To wait for data is to compute, too.
            with tf.control_dependencies([began]):
                batch = iterator.get_next_as_optional()
            buffers = tf.cond(
                batch.has_value(),
                lambda: self._contribute(self._stream(place, number), step, theta, batch),
                self._contribution.nothing,
            )
            computed = tf.where(batch.has_value(), step, tf.constant(protocol.STOP, tf.int64))
            finite = self._finite(buffers, step)
            with tf.control_dependencies(buffers):
                compute = now() - began
            message = Message(
                place, entry, run, step=computed, ticket=ticket, finite=finite, compute=compute
            )
            then, theta = self._deliver(tf.stack(list(message)), buffers)
            if self._fills:
                number = tf.where(tf.equal(then, step), number + 1, tf.zeros_like(number))
            # A ticket that nothing was put under is used again.
            return then, ticket + finite, number, theta

        step, entry, number, theta = self._enter(place, life, run)
        # Tickets differ from those of all other entries, also of earlier lives of this worker.
        # A turn begins when its step is known: the first layers need not wait for all parameters.
        with graphs.as_data_flows():
            then, ticket, _, _ = tf.while_loop(
                lambda step, ticket, number, theta: step >= 0,
                body,
                [step, entry * _TICKETS_PER_ENTRY, number, theta],
                parallel_iterations=2,
            )
        if self._fills:
            # What an entry delivered before it ended may be needed for an update.
            ticket = tf.where(tf.equal(then, protocol.EXPELLED), tf.zeros_like(ticket), ticket)
        with tf.control_dependencies(self._take_back(ticket - 1)):
            return tf.identity(then)

    def _stream(self, place: Tensor, number: Tensor) -> Tensor:
        """Return the number of a stream of random numbers ([]).

        Contributions to the same step draw from different ones.

        Args:
          place: [] the worker's place.
          number: [] how many contributions the place has made to the step before.
        """
        return place + 1 + number * self._gate.policy.workers if self._fills else place + 1

    def _contribute(self, stream: Tensor, step: Tensor, theta: Buffers, batch: Any) -> Buffers:
        """Compute the contribution to step t on a batch (an optional that has one), at theta(t)."""
        batch = batch.get_value()
        layout = self._snapshot.layout
        values = layout.unpack_all(dict(zip(layout.keys, theta, strict=True)))
        # Lookups of table rows depend on the batch, so it waits until step t has started.
        with tf.control_dependencies([step]):
            batch = tf.nest.map_structure(tf.identity, batch, expand_composites=True)
        # Wait for all of it: assertions and prints of the model, too.
        with graphs.changing() as written:
            results = self._compute(values, tf.stack([stream, step]), batch)
        with tf.control_dependencies(written):
            return [tf.identity(each) for each in self._contribution.buffers(results)]

    def _enter(self, place: Tensor, life: Tensor, run: Tensor) -> Any:
        """Enter; return the results of `Gate.enter`, and theta of the first step."""

        def at_gate(place: Tensor, life: Tensor, run: Tensor) -> Any:
            step, entry, number = self._gate.enter(place, life, run)
            with tf.control_dependencies([step]):
                return step, entry, number, self._read(GATE_SERVER)

        *numbers, mine = graphs.here(graphs.on_server(GATE_SERVER, at_gate, place, life, run))
        for each in numbers:
            each.set_shape([])
        return *numbers, self._gather(numbers[0], mine)

    def _deliver(self, message: Tensor, buffers: Buffers) -> tuple[Tensor, Buffers]:
        """Deliver a contribution; return the next step and its theta."""

        def put(ps: int) -> Any:
            def at_server(message: Tensor, part: list[Tensor]) -> Tensor:
                with tf.control_dependencies([self._put(message, part)]):
                    return tf.constant(True)

            return graphs.on_server(ps, at_server, message, self._contribution.part(buffers, ps))

        def at_gate(
            message: Tensor, part: list[Tensor], arrived: list[Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            done = [self._put(message, part), *arrived]
            with tf.control_dependencies(done):
                step = self._gate.offer(**_unpacked(message)._asdict())
            with tf.control_dependencies([step]):
                return step, self._read(GATE_SERVER)

        others = [ps for ps in self._contribution.servers if ps != GATE_SERVER]
        part = self._contribution.part(buffers, GATE_SERVER)
        step, mine = graphs.on_server(
            GATE_SERVER, at_gate, message, part, [put(ps) for ps in others]
        )
        step.set_shape([])
        return graphs.here(step), self._gather(step, graphs.here(mine))

    def _put(self, message: Tensor, part: list[Tensor]) -> Any:
        """Put a contribution's part, if there is one, on the server where this is called."""
        step, ticket, finite = message[_AT.step], message[_AT.ticket], message[_AT.finite]
        return tf.cond(
            tf.not_equal(step, protocol.STOP) & (finite > 0),
            lambda: self._accumulator.put(ticket, part),
            tf.no_op,
        )

    def _finite(self, buffers: Buffers, step: Tensor) -> Tensor:
        """Return 0 for a contribution with NaN or Inf that is to be dropped, otherwise 1 ([])."""
        if self._on_nonfinite == "keep":
            return tf.constant(1, tf.int64)
        finite = self._contribution.finite(buffers)
        if self._on_nonfinite == "raise":
            said = ["a gradient has NaN or Inf at step", step, '(on_nonfinite="raise").']
            with tf.control_dependencies([tf.debugging.Assert(finite, said)]):
                finite = tf.identity(finite)
        return tf.cast(finite, tf.int64)

    def _take_back(self, ticket: Tensor) -> list[Tensor]:
        """Discard the last contribution from all servers, if it was not used."""

        def take_back(ps: int) -> Any:
            def at_server(ticket: Tensor) -> Tensor:
                with tf.control_dependencies([self._accumulator.discard(ticket, ps)]):
                    return tf.constant(True)

            return graphs.on_server(ps, at_server, ticket)

        return [take_back(ps) for ps in self._contribution.servers]

    def _read(self, ps: int) -> list[Tensor]:
        """Read the part of theta on server `ps`; called on that server."""
        return list(self._snapshot.read(ps).values())

    def _gather(self, step: Tensor, mine: Sequence[Tensor]) -> Buffers:
        """Return all of theta: `mine`, and the other servers' parts, read after `step` is known."""
        layout = self._snapshot.layout
        parts: dict[Key, Tensor] = dict(zip(layout.keys_on(GATE_SERVER), mine, strict=True))

        def read(ps: int) -> Any:
            def at_server(step: Tensor) -> list[Tensor]:
                with tf.control_dependencies([step]):
                    return self._read(ps)

            return graphs.on_server(ps, at_server, step)

        for ps in layout.servers:
            if ps != GATE_SERVER:
                parts.update(zip(layout.keys_on(ps), graphs.here(read(ps)), strict=True))
        return [parts[key] for key in layout.keys]
