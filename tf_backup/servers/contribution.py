"""One worker's results on one batch, in the form in which they travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.objective import Objective, Results
from tf_backup.servers import tables
from tf_backup.servers.packing import Entry, Key, Layout
from tf_backup.servers.tokens import GATE_SERVER

Tensor = Any


class Rows(NamedTuple):
    """A table's gradient among the results: its target, its server, and its table."""

    target: int
    ps: int
    shape: tuple[int, ...]  # of the table
    dtype: tf.DType


class Contribution:
    """Which results there are, and the parameter server and dtype that each belongs to.

    Each result travels to the server of the variable that it is for, metric sums included:
    these are then exact over the accepted batches, once each, for free. Dense results of one
    server and dtype are one buffer; a table's gradient is two more, its ids and its rows.

    Args:
      objective: whose variables the results are for.
      results: as a traced computation returns them; what is None there does not travel.
      replicas: N.
    """

    def __init__(self, objective: Objective, results: Results, replicas: int) -> None:
        variables = [*objective.trainable, *objective.state, *objective.sums]
        keys = [_key(variable) for variable in variables]
        keys += [Key(GATE_SERVER, tf.float32)] * len(results.reports)
        shapes = [tuple(variable.shape) for variable in variables]
        shapes += [()] * len(results.reports)
        flat = _flat(results)
        sparse = [isinstance(result, tf.IndexedSlices) for result in flat]
        self._dense = [i for i, r in enumerate(flat) if r is not None and not sparse[i]]
        self._rows = [
            Rows(i, keys[i].ps, shapes[i], keys[i].dtype)
            for i, is_sparse in enumerate(sparse)
            if is_sparse
        ]
        self._targets = len(flat)
        first_sum = len(objective.trainable) + len(objective.state)
        self._sums = range(first_sum, first_sum + len(objective.sums))
        self._replicas = replicas
        self.layout = Layout([Entry(shapes[i], keys[i]) for i in self._dense])

    @property
    def servers(self) -> list[int]:
        """The parameter servers that get a part of every contribution."""
        return sorted({*self.layout.servers, *(rows.ps for rows in self._rows)})

    def specs(self, ps: int) -> list[tf.TensorSpec]:
        """Returns the specs of the buffers that one server gets."""
        specs = [tf.TensorSpec([self.layout.size(k)], k.dtype) for k in self.layout.keys_on(ps)]
        for rows in self._rows_on(ps):
            specs.append(tf.TensorSpec([None], tf.int64))
            specs.append(tf.TensorSpec([None, *rows.shape[1:]], rows.dtype))
        return specs

    def buffers(self, results: Results) -> list[Tensor]:
        """Returns a worker's results as they are sent: the buffers of each server in turn.

        The chief divides everything by N; what is to be added up is multiplied by N here.
        """
        flat = _flat(results)
        dense = [flat[i] * self._replicas if i in self._sums else flat[i] for i in self._dense]
        sent: list[Tensor] = []
        for ps in self.servers:
            sent += [self.layout.pack(dense, key) for key in self.layout.keys_on(ps)]
            for rows in self._rows_on(ps):
                gradient = flat[rows.target]
                sent.append(tf.cast(gradient.indices, tf.int64))
                sent.append(tf.cast(gradient.values, rows.dtype))
        return sent

    def nothing(self) -> list[Tensor]:
        """Returns buffers in the place of those of a worker that has no data."""
        return [
            tf.zeros([size or 0 for size in spec.shape], spec.dtype)
            for ps in self.servers
            for spec in self.specs(ps)
        ]

    def part(self, buffers: Sequence[Tensor], ps: int) -> list[Tensor]:
        """Returns those of a contribution's buffers that are for one server."""
        start = 0
        for server in self.servers:
            size = len(self.specs(server))
            if server == ps:
                return list(buffers[start : start + size])
            start += size
        return []

    def combine(self, parts: Sequence[Sequence[Tensor]], ps: int) -> dict[int, Any]:
        """Returns the mean (for a sum variable the sum) of N contributions, by target.

        Call it on the server, in a graph.

        Args:
          parts: of each of the N contributions, the buffers for this server.
          ps: which server.
        """
        columns = iter(zip(*parts, strict=True))
        found: dict[int, Any] = {}
        for key in self.layout.keys_on(ps):
            mean = self._mean(next(columns), key.dtype)
            for place, value in self.layout.unpack(mean, key).items():
                found[self._dense[place]] = value
        for rows in self._rows_on(ps):
            found[rows.target] = tables.mean(next(columns), next(columns), rows.shape)
        return found

    def _mean(self, parts: Sequence[Tensor], dtype: tf.DType) -> Tensor:
        """Returns the mean of N buffers; those of 16 bits are summed in float32."""
        if dtype.is_integer:
            return tf.add_n(list(parts)) // self._replicas
        if dtype.size < 4:  # float16 overflows, bfloat16 loses a percent at N = 50.
            parts = [tf.cast(part, tf.float32) for part in parts]
        return tf.cast(tf.add_n(list(parts)) / self._replicas, dtype)

    def totals(self, found: dict[int, Any]) -> list[Any]:
        """Returns what `combine` has found on all servers, one (or None) per target."""
        return [found.get(target) for target in range(self._targets)]

    def _rows_on(self, ps: int) -> list[Rows]:
        return [rows for rows in self._rows if rows.ps == ps]


def _flat(results: Results) -> list[Any]:
    return [*results.gradients, *results.changes, *results.sums, *results.reports]


def _key(variable: Any) -> Key:
    return Key(runtime.ps_index(variable.device), tf.as_dtype(variable.dtype))
