"""Embedding tables, in which workers look up rows, and which are never read whole.

A table stays on its parameter server. A worker sends the ids of the rows that it needs and receives
the rows. Its gradient travels as (ids, rows), with each id once. So network traffic grows with the
batch, not with the table.

Only the chief writes a table, after step t has its N gradients and before it hands out tokens of
step t + 1. A worker so slow that it looks up rows during the write sees a mixture. As with the
snapshot, its contribution is then late by the gate's rules, and never used. With `max_staleness`
above 0 it may be used: its rows are of step t or newer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup.annotations import Tensor, Variable


class Lookups:
    """The rows that one computation looks up, and their gradients.

    Args:
      tape: tape that watches the rows of trainable tables; None if nothing is differentiated.
    """

    def __init__(self, tape: tf.GradientTape | None = None) -> None:
        self._tape = tape
        self._graph = tf.compat.v1.get_default_graph()
        self._found: dict[int, list[tuple[Tensor, Tensor]]] = {}

    @property
    def possible(self) -> bool:
        """Whether rows can be looked up here, outside of loops and branches of the computation.

        Rows that are looked up inside of a loop or branch cannot be differentiated from outside.
        """
        return tf.compat.v1.get_default_graph() is self._graph

    def rows(self, table: Variable, ids: Tensor) -> Tensor:
        """Return the rows of `table` for `ids`, of any shape; negative ids count from the end.

        Args:
          table: [rows, ...], on a parameter server.
          ids: integers of any shape, each in [-rows, rows).
        """
        flat = _checked(tf.reshape(tf.cast(ids, tf.int64), [-1]), table)
        flat = tf.where(flat < 0, flat + table.shape[0], flat)
        unique, place = tf.unique(flat)

        def at_server(ids: Tensor) -> Tensor:
            return tf.gather(table, ids)

        rows = graphs.here(graphs.on_server(runtime.ps_index(table.device), at_server, unique))
        rows.set_shape([None, *table.shape[1:]])
        if self._tape is not None and table.trainable:
            self._tape.watch(rows)
            self._found.setdefault(id(table), []).append((unique, rows))
        found = tf.reshape(
            tf.gather(rows, place), tf.concat([tf.shape(ids), table.shape[1:]], axis=0)
        )
        found.set_shape(ids.shape.concatenate(table.shape[1:]))
        return found

    def looked_up(self, table: Variable) -> list[Tensor]:
        """Return the rows that were looked up in a table, to compute gradients for."""
        return [rows for _, rows in self._found.get(id(table), ())]

    def gradient(self, table: Variable, gradients: Sequence[Tensor | None]) -> Any:
        """Return a table's gradient (tf.IndexedSlices or None) from the gradients of its rows."""
        parts = [
            (ids, tf.convert_to_tensor(gradient))
            for (ids, _), gradient in zip(self._found.get(id(table), ()), gradients, strict=True)
            if gradient is not None
        ]
        if not parts:
            return None
        ids, values = zip(*parts, strict=True)
        shape = tf.constant(list(table.shape), tf.int64)
        return tf.IndexedSlices(tf.concat(values, axis=0), tf.concat(ids, axis=0), shape)


def _checked(ids: Tensor, table: Variable) -> Tensor:
    """Return `ids` ([n] int64), after a check that the table has rows for all of them.

    The table's server would check this, too. But when a call on a server fails, TensorFlow cancels
    the worker's other calls, and often raises their `CancelledError` instead of the cause.
    """
    rows = table.shape[0]
    wrong = tf.boolean_mask(ids, (ids < -rows) | (ids >= rows))
    said = [f"{table.name.split(':')[0]} has {rows} rows, and none for these ids:", wrong]
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(wrong), 0), said)]):
        return tf.identity(ids)


def mean(
    ids: Sequence[Tensor], rows: Sequence[Tensor], shape: Sequence[int], count: Any = None
) -> tf.IndexedSlices:
    """Return the mean of N gradients of a table, with every row once.

    The sum of a row is divided by N even if fewer than N workers used the row, since the gradients
    of the other workers are zero there.

    Args:
      ids: N tensors, [n] int64 each.
      rows: N tensors, [n, ...] each.
      shape: shape of the table.
      count: number of gradients that are there ([] int32), if fewer than N may be.
    """
    count = len(ids) if count is None else count
    unique, place = tf.unique(tf.concat(ids, axis=0))
    values = tf.concat(rows, axis=0)
    dtype = values.dtype
    if dtype.size < 4:  # As for dense gradients, see `contribution`.
        values = tf.cast(values, tf.float32)
    total = tf.math.unsorted_segment_sum(values, place, tf.size(unique))
    return tf.IndexedSlices(
        tf.cast(total / tf.cast(count, total.dtype), dtype),
        unique,
        tf.constant(list(shape), tf.int64),
    )
