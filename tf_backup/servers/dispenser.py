"""Dispenser of the pieces of an evaluation, which sums their results on the first server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup._tf import client_calls
from tf_backup._tf.named import Name, NamedLock, NamedQueue, NamedVariable
from tf_backup.annotations import Tensor
from tf_backup.rules import pieces
from tf_backup.rules.pieces import Lanes, Piece
from tf_backup.servers.gate_rules import TENSORS
from tf_backup.servers.packing import Entry, Key, Layout
from tf_backup.servers.tokens import DEVICE, GATE_SERVER


class Dispenser:
    """The lanes of an evaluation, and the sums over all counted pieces.

    Args:
      lanes: number of lanes.
      specs: specs of the tensors that are summed.
      name: name of the resources on the server.
    """

    def __init__(self, lanes: int, specs: Sequence[tf.TensorSpec], name: Name) -> None:
        self._count = lanes
        state = _pack(pieces.new_lanes(lanes))
        self._lock = NamedLock(GATE_SERVER, name / "lock")
        self._lanes = NamedVariable(GATE_SERVER, name / "lanes", tf.int64, state.shape)
        self._over = NamedQueue(GATE_SERVER, name / "over", [tf.int64], [[]], 1024)
        self._lanes.assign(state)
        entries = [Entry(tuple(s.shape), Key(GATE_SERVER, tf.as_dtype(s.dtype))) for s in specs]
        self.layout = Layout(entries)
        self._totals = {
            key: NamedVariable(
                GATE_SERVER, name / f"totals/{key.dtype.name}", key.dtype, [self.layout.size(key)]
            )
            for key in self.layout.keys
        }

    @property
    def resources(self) -> list[Any]:
        """The resources that workers find by name."""
        return [self._lock, self._lanes, self._over, *self._totals.values()]

    # ---- For workers, in a graph --------------------------------------------------------------

    def next(self, worker: Tensor, life: Tensor, run: Tensor) -> Tensor:
        """Return the lane to read (or WAIT or STOP), and how many batches to skip ([2])."""

        def body() -> Tensor:
            lanes, lane, start = self._choose(self._read(), worker, life, run)
            with tf.control_dependencies([self._write(lanes)]):
                return tf.stack([lane, start])

        return self._locked(body)

    def deliver(self, worker: Tensor, life: Tensor, piece: Piece, sums: Sequence[Tensor]) -> Tensor:
        """Count a piece unless it is already counted, and return what `next` would.

        Args:
          worker: [] the worker's index.
          life: [] the number of its life.
          piece: the piece.
          sums: the results of the piece, in the buffers of `layout`.
        """

        def body() -> Tensor:
            lanes, counts, over = pieces.deliver(self._read(), self._indices(), piece, TENSORS)
            lanes, lane, start = self._choose(lanes, worker, life, piece.run)
            done = [self._write(lanes)]
            for key, more in zip(self.layout.keys, sums, strict=True):
                more = tf.where(counts, more, tf.zeros_like(more))
                done.append(self._totals[key].assign_add(more, read_value=False))
            with tf.control_dependencies(done):
                end = self._over.put_many(tf.boolean_mask(lanes.run[None], over[None]))
            with tf.control_dependencies([end]):
                return tf.stack([lane, start])

        return self._locked(body)

    # ---- For the coordinator, eagerly ---------------------------------------------------------

    @client_calls.called_eagerly
    def begin(self) -> Tensor:
        """Start an evaluation, and return its number."""

        def body() -> Tensor:
            lanes = pieces.begin(self._read())
            done = [total.assign(tf.zeros_like(total)) for total in self._totals.values()]
            with tf.control_dependencies([self._write(lanes), self._over.drain(), *done]):
                return tf.identity(lanes.run)

        return self._locked(body)

    @client_calls.called_eagerly
    def close(self) -> Tensor:
        """End the evaluation, if it has not ended."""

        def body() -> Tensor:
            lanes = pieces.close(self._read())
            with tf.control_dependencies([self._write(lanes)]):
                return tf.identity(lanes.run)

        return self._locked(body)

    @client_calls.called_eagerly
    def expire(self, gone: Tensor) -> Tensor:
        """Free the lanes held by the lives in `gone` ([lanes] int64; 0 for none)."""

        def body() -> Tensor:
            lanes = self._read()
            lanes = pieces.expire(lanes, (gone > 0) & tf.equal(gone, lanes.holder), TENSORS)
            with tf.control_dependencies([self._write(lanes)]):
                return tf.identity(lanes.run)

        return self._locked(body)

    @client_calls.called_eagerly
    def await_end(self) -> Tensor:
        """Wait until all pieces have been counted."""
        with tf.device(DEVICE):
            return self._over.take()[0]

    def lanes(self) -> Lanes:
        """Return the current lanes, in NumPy."""
        return _unpack(self._lanes.fetch())

    def sums(self) -> list[Tensor]:
        """Return the sums over all counted pieces, one per spec."""
        return self.layout.unpack_all(
            {key: tf.constant(total.fetch()) for key, total in self._totals.items()}
        )

    # ---- Plumbing -----------------------------------------------------------------------------

    def _choose(
        self, lanes: Lanes, worker: Tensor, life: Tensor, run: Tensor
    ) -> tuple[Lanes, Tensor, Tensor]:
        now = tf.cast(tf.timestamp() * 1e6, tf.int64)
        return pieces.choose(lanes, self._indices(), worker, life, run, now, TENSORS)

    def _indices(self) -> Tensor:
        return tf.range(self._count, dtype=tf.int64)

    def _locked(self, body: Callable[[], Tensor]) -> Tensor:
        with tf.device(DEVICE):
            return self._lock.holding(body)

    def _read(self) -> Lanes:
        return _unpack(self._lanes.read_value())

    def _write(self, lanes: Lanes) -> Any:
        return self._lanes.assign(_pack(lanes, tf.stack), read_value=False)


def _pack(lanes: Lanes, stack: Any = np.stack) -> Any:
    """Pack lanes into one array ([scalars + vectors, lanes]), with scalars repeated."""
    scalars = [getattr(lanes, name) + lanes.position * 0 for name in pieces.SCALARS]
    return stack(scalars + [getattr(lanes, name) for name in pieces.VECTORS])


def _unpack(array: Any) -> Lanes:
    """Return the lanes that `_pack` has packed."""
    scalars = {name: array[row, 0] for row, name in enumerate(pieces.SCALARS)}
    vectors = {
        name: array[row] for row, name in enumerate(pieces.VECTORS, start=len(pieces.SCALARS))
    }
    return Lanes(**scalars, **vectors)
