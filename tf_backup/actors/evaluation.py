"""Evaluation on all workers, in small pieces. Every batch counts exactly once."""

from __future__ import annotations

import contextlib
import logging
import uuid
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_backup import errors
from tf_backup._tf import client_calls, graphs, runtime
from tf_backup._tf.named import Boxed, Name
from tf_backup.actors import coordinator, current_run
from tf_backup.actors.failures import GONE
from tf_backup.annotations import Tensor
from tf_backup.network.watch import Watch
from tf_backup.objective import Measurement
from tf_backup.rules import pieces
from tf_backup.rules.pieces import Piece
from tf_backup.servers.dispenser import Dispenser
from tf_backup.servers.program import Program
from tf_backup.servers.snapshot import Snapshot
from tf_backup.servers.tokens import GATE_SERVER
from tf_backup.worker_data import WorkerData

log = logging.getLogger(__name__)


class _Delivery(NamedTuple):
    """Message with which a worker delivers a piece; [7] int64 on its way, here each []."""

    worker: Any  # the worker's index
    life: Any  # the number of its life
    run: Any  # see Piece, as for the others
    lane: Any
    start: Any
    batches: Any
    ended: Any  # 0 or 1


class Evaluation:
    """Distributed evaluation of a measurement over all batches of a data set.

    Args:
      strategy: the strategy whose workers compute.
      measurement: the measurement that workers compute.
      element_spec: spec of the batches.
      stall_timeout_s: how long to wait for workers while none is alive.
    """

    def __init__(
        self,
        strategy: Any,
        measurement: Measurement,
        element_spec: Any,
        stall_timeout_s: float,
    ) -> None:
        self._strategy = strategy
        self._coordinator = coordinator.of(strategy)
        self._measurement = measurement
        self._stall_timeout_s = stall_timeout_s
        name = Name(self._coordinator.container, f"evaluation/{uuid.uuid4().hex}")
        with self._coordinator.tracing():
            self._snapshot = Snapshot(measurement.read, name / "snapshot")
            self._dispenser = Dispenser(
                runtime.worker_count(strategy),
                tf.nest.flatten(measurement.compute.structured_outputs),
                name / "dispenser",
            )
            tables = [
                Boxed(table.handle, runtime.ps_index(table.device), name / f"tables/{i}")
                for i, table in enumerate(measurement.tables)
            ]
            self._program = Program(
                self._functions(element_spec),
                [*self._snapshot.resources, *self._dispenser.resources, *tables],
                name / "program",
            )

    def run(self, data: WorkerData) -> Any:
        """Return the measurement's results over all of `data`.

        Raises:
          ParameterServerLost, WorkersLost, WorkerFailed: as in training.
        """
        current_run.interrupt(self._strategy)
        calls = runtime.Cancelable()
        with self._coordinator.told_plainly():
            self._snapshot.publish()
            run = int(self._dispenser.begin())
            watch = Watch()
            try:
                self._coordinator.announce(self._program.job("evaluate", data.start(), run=run))
                self._coordinator.call(
                    lambda: calls(self._dispenser.await_end),
                    meanwhile=lambda: self._look_around(watch),
                )
            except GONE:
                raise
            except BaseException:  # After an interrupt, too, the workers must not go on with it.
                with contextlib.suppress(tf.errors.OpError):
                    self._dispenser.close()
                    self._over()
                raise
            finally:
                calls.cancel()
            sums = tf.nest.pack_sequence_as(
                self._measurement.compute.structured_outputs, self._dispenser.sums()
            )
            self._over()
        return self._measurement.results(sums)

    def _over(self) -> None:
        """Tell the workers that there is nothing to do, and delete the data from the servers."""
        self._coordinator.announce(None)
        self._program.forget_data()

    # ---- For workers --------------------------------------------------------------------------

    def _functions(self, element_spec: Any) -> dict[str, Any]:
        """Return the functions that a worker process runs, by name."""
        number = tf.TensorSpec([], tf.int64)
        batches = tf.data.IteratorSpec(element_spec)
        of_next = client_calls.function(self._next)
        of_pieces = client_calls.function(self._pieces)
        return {
            "next": of_next.get_concrete_function(number, number, number),
            "pieces": of_pieces.get_concrete_function(
                number, number, number, number, number, batches
            ),
        }

    def _next(self, worker: Tensor, life: Tensor, run: Tensor) -> Tensor:
        """Return what a worker does next; see `Dispenser.next`."""
        return graphs.on_server(GATE_SERVER, self._dispenser.next, worker, life, run)

    def _pieces(
        self, worker: Tensor, life: Tensor, run: Tensor, lane: Tensor, start: Tensor, iterator: Any
    ) -> Tensor:
        """Compute pieces of a lane for as long as the worker holds the lane.

        Args:
          worker: [] int64, the worker's index.
          life: [] int64, the number of its life.
          run: [] int64, the number of the evaluation.
          lane: [] int64, the lane.
          start: [] int64, the number of its batches to skip.
          iterator: iterator over the batches after these.

        Returns:
          [2] int64, what to do next; see `Dispenser.next`.
        """
        values = self._snapshot.read_all()

        def body(batch: Any, start: Tensor, then: Tensor) -> tuple[Any, Tensor, Tensor]:
            batch, count, sums = self._piece(batch, values, iterator)
            ended = tf.cast(~batch.has_value(), tf.int64)
            message = _Delivery(worker, life, run, lane, start, count, ended)
            then = graphs.here(self._deliver(message, sums))
            then.set_shape([2])
            return batch, start + count, then

        _, _, then = tf.while_loop(
            lambda batch, start, then: tf.reduce_all(tf.equal(then, tf.stack([lane, start]))),
            body,
            [iterator.get_next_as_optional(), start, tf.stack([lane, start])],
            parallel_iterations=1,
        )
        return then

    def _piece(
        self, batch: Any, values: list[Tensor], iterator: Any
    ) -> tuple[Any, Tensor, list[Tensor]]:
        """Add up the results of some batches; return the next batch, their number and the sums."""
        compute, seed = self._measurement.compute, tf.zeros([2], tf.int64)
        specs = tf.nest.flatten(compute.structured_outputs)
        zeros = [tf.zeros(spec.shape, spec.dtype) for spec in specs]
        end = tf.timestamp() + pieces.PIECE_S

        def body(batch: Any, count: Tensor, _: Tensor, sums: list[Tensor]) -> Any:
            more = tf.nest.flatten(compute(values, seed, batch.get_value()))
            sums = [
                total + tf.cast(part, total.dtype) for total, part in zip(sums, more, strict=True)
            ]
            with tf.control_dependencies(sums):
                now = tf.timestamp()
            return iterator.get_next_as_optional(), count + 1, now, sums

        batch, count, _, sums = tf.while_loop(
            lambda batch, count, now, sums: batch.has_value() & (now < end),
            body,
            [batch, tf.constant(0, tf.int64), end - pieces.PIECE_S, zeros],
            parallel_iterations=1,
        )
        return batch, count, sums

    def _deliver(self, message: _Delivery, sums: list[Tensor]) -> Tensor:
        """Deliver a piece, and return what to do next."""
        layout = self._dispenser.layout
        buffers = [layout.pack(sums, key) for key in layout.keys]

        def at_server(message: Tensor, buffers: list[Tensor]) -> Tensor:
            sent = _Delivery(*tf.unstack(message, len(_Delivery._fields)))
            piece = Piece(sent.run, sent.lane, sent.start, sent.batches, tf.equal(sent.ended, 1))
            return self._dispenser.deliver(sent.worker, sent.life, piece, buffers)

        return graphs.on_server(GATE_SERVER, at_server, tf.stack(message), buffers)

    # ---- For the coordinator ------------------------------------------------------------------

    def _look_around(self, watch: Watch) -> None:
        """Raise errors, free the lanes of lost workers, and log delays."""
        self._coordinator.check_workers()
        members, lanes = self._coordinator.members, self._dispenser.lanes()
        newest = members.newest  # A life with a larger number has begun since.
        here = np.isin(lanes.holder, members.lives) | (lanes.holder > newest)
        gone = np.where(here, 0, lanes.holder)
        if np.any(gone):
            self._dispenser.expire(tf.constant(gone, tf.int64))
        if members.living:
            watch.enough()
        if watch.time_to_report():
            log.warning(
                "Evaluation takes %.0f s: %d of %d parts of the data are done, after %d batches; "
                "%d worker(s) live.",
                watch.seconds,
                int(np.sum(lanes.done)),
                len(lanes.done),
                int(np.sum(lanes.position)),
                members.living,
            )
        if watch.short_s > self._stall_timeout_s:
            raise errors.WorkersLost(
                f"No worker has been alive for {watch.short_s:.0f} s. Start them again, and run "
                "this command again."
            )
