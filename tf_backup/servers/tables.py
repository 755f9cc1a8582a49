"""Tables of which workers look rows up, and which are never read whole: embeddings.

A table stays on its parameter server. A worker sends the ids of the rows that it needs there
and gets the rows; its gradient travels as (ids, rows), each id once. So what crosses the network
grows with the batch, and not with the table.

Only the chief writes a table, when step t has its N gradients and before it hands out tokens of
step t + 1. A worker so slow as to look rows up meanwhile sees a mixture, but its contribution
is late then by the gate's rule, and never used: as with the snapshot. Where old gradients are
used, it may be: rows are of step t or newer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs, runtime

Tensor = Any
Variable = Any  # a tf.Variable on a parameter server


class Lookups:
    """The rows that one computation looks up, and their gradients.

    Args:
      tape: watches the rows of tables that are trained; None if nothing is differentiated.
    """

    def __init__(self, tape: tf.GradientTape | None = None) -> None:
        self._tape = tape
        self._graph = tf.compat.v1.get_default_graph()
        self._found: dict[int, list[tuple[Tensor, Tensor]]] = {}

    @property
    def possible(self) -> bool:
        """Whether rows can be looked up here: not in a loop or branch of the computation.

        What is made there cannot be differentiated from outside.
        """
        return tf.compat.v1.get_default_graph() is self._graph

    def rows(self, table: Variable, ids: Tensor) -> Tensor:
        """Returns the rows of `table` for `ids`, of any shape; negative ids count from the end.

        Args:
          table: [rows, ...], on a parameter server.
          ids: integers of any shape, each in [-rows, rows).
        """
        flat = tf.reshape(tf.cast(ids, tf.int64), [-1])
        flat = tf.where(flat < 0, flat + table.shape[0], flat)
        unique, place = tf.unique(flat)

        def gather(ids: Tensor) -> Tensor:
            return tf.gather(table, ids)

        rows = graphs.here(graphs.on_server(runtime.ps_index(table.device), gather, unique))
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
        """Returns what was looked up in a table, to be differentiated for."""
        return [rows for _, rows in self._found.get(id(table), ())]

    def gradient(self, table: Variable, gradients: Sequence[Tensor | None]) -> Any:
        """Returns a table's gradient (tf.IndexedSlices, or None) from those of its rows."""
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


def mean(ids: Sequence[Tensor], rows: Sequence[Tensor], shape: Sequence[int]) -> tf.IndexedSlices:
    """Returns the mean of N gradients of a table, every row once.

    A row that fewer than N workers touched is divided by N all the same: the others' gradient
    of it is zero.

    Args:
      ids: N tensors, [n] int64 each.
      rows: N tensors, [n, ...] each.
      shape: of the table.
    """
    unique, place = tf.unique(tf.concat(ids, axis=0))
    values = tf.concat(rows, axis=0)
    dtype = values.dtype
    if dtype.size < 4:  # As for dense gradients.
        values = tf.cast(values, tf.float32)
    total = tf.math.unsorted_segment_sum(values, place, tf.size(unique))
    return tf.IndexedSlices(
        tf.cast(total / len(ids), dtype), unique, tf.constant(list(shape), tf.int64)
    )
