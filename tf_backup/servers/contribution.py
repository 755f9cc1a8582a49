"""Packing of a worker's results on one batch for sending, and their mean over N workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.annotations import Tensor
from tf_backup.objective import Objective, Results, Totals
from tf_backup.servers import tables
from tf_backup.servers.packing import Entry, Key, Layout, in_parts
from tf_backup.servers.tokens import GATE_SERVER


class Target(NamedTuple):
    """What one of the results is for: a variable, or a report."""

    field: str  # field of `Results` and of `Totals`
    number: int  # index in this field


Combined = Mapping[Target, Any]  # Results of N workers, combined on one server.


class Rows(NamedTuple):
    """A table's gradient among the results."""

    target: Target
    ps: int  # server of the table
    shape: tuple[int, ...]  # shape of the table
    dtype: tf.DType


class Contribution:
    """Format of contributions: the results, and the parameter server and dtype of each.

    Each result travels to the server of its variable. That includes metric sums, which so count
    each accepted batch exactly once, at no extra cost. Dense results of one server and dtype form
    one buffer, or a few large ones. A table's gradient forms two more: its ids and its rows.

    Args:
      objective: objective with the variables that the results are for.
      results: results that a traced computation returns; those that are None are not sent.
    """

    def __init__(self, objective: Objective, results: Results) -> None:
        variables = _by_target(objective.targets)
        report = Entry((), Key(GATE_SERVER, tf.float32))
        self._counts = {field: len(part) for field, part in results._asdict().items()}
        self._dense: list[Target] = []
        self._rows: list[Rows] = []
        entries: list[Entry] = []
        for target, result in _by_target(results._asdict()).items():
            entry = report if target.field == "reports" else _entry(variables[target])
            if isinstance(result, tf.IndexedSlices):
                self._rows.append(Rows(target, entry.key.ps, entry.shape, entry.key.dtype))
            elif result is not None:
                self._dense.append(target)
                entries.append(entry)
        self.layout = Layout(in_parts(entries))

    @property
    def servers(self) -> list[int]:
        """The parameter servers that receive a part of every contribution."""
        return sorted({*self.layout.servers, *(rows.ps for rows in self._rows)})

    def specs(self, ps: int) -> list[tf.TensorSpec]:
        """Return the specs of the buffers that one server receives."""
        specs = [tf.TensorSpec([self.layout.size(k)], k.dtype) for k in self.layout.keys_on(ps)]
        for rows in self._rows_on(ps):
            specs.append(tf.TensorSpec([None], tf.int64))
            specs.append(tf.TensorSpec([None, *rows.shape[1:]], rows.dtype))
        return specs

    def buffers(self, results: Results) -> list[Tensor]:
        """Pack a worker's results into the buffers to send, one server after the other."""
        found = _by_target(results._asdict())
        dense = [found[target] for target in self._dense]
        sent: list[Tensor] = []
        for ps in self.servers:
            sent += [self.layout.pack(dense, key) for key in self.layout.keys_on(ps)]
            for rows in self._rows_on(ps):
                gradient = found[rows.target]
                sent.append(tf.cast(gradient.indices, tf.int64))
                sent.append(tf.cast(gradient.values, rows.dtype))
        return sent

    def nothing(self) -> list[Tensor]:
        """Return placeholder buffers for a worker that has no data."""
        return [
            tf.zeros([size or 0 for size in spec.shape], spec.dtype)
            for ps in self.servers
            for spec in self.specs(ps)
        ]

    def finite(self, buffers: Sequence[Tensor]) -> Tensor:
        """Return whether a contribution's gradients and state changes have no NaN or Inf ([] bool).

        Metric sums are not looked at: a metric may have its own use for infinity.
        """
        checks = []
        for ps in self.servers:
            parts = iter(self.part(buffers, ps))
            for key in self.layout.keys_on(ps):
                values = next(parts)
                if key.dtype.is_floating:
                    checks.append(_finite(values[: self._size_before_sums(key)]))
            for rows in self._rows_on(ps):
                next(parts)  # The ids.
                values = next(parts)
                if rows.dtype.is_floating:
                    checks.append(_finite(values))
        return tf.reduce_all(tf.stack(checks)) if checks else tf.constant(True)

    def _size_before_sums(self, key: Key) -> int:
        """Return how many numbers of a buffer belong to gradients and state changes: the first."""
        return sum(
            entry.aligned_size
            for target, entry in zip(self._dense, self.layout.entries, strict=True)
            if entry.key == key and target.field in ("gradients", "changes")
        )

    def part(self, buffers: Sequence[Tensor], ps: int) -> list[Tensor]:
        """Return the buffers of a contribution that are for one server."""
        start = 0
        for server in self.servers:
            size = len(self.specs(server))
            if server == ps:
                return list(buffers[start : start + size])
            start += size
        return []

    def combine(self, parts: Sequence[Sequence[Tensor]], ps: int, count: Any) -> Combined:
        """Return the mean of the contributions' parts (for a sum variable, their sum).

        Called in a graph, on the server.

        Args:
          parts: for each of the N contributions, its buffers for this server; zeros if it is none.
          ps: index of the server.
          count: number of contributions that are there: an int, or [] int32.
        """
        columns = iter(zip(*parts, strict=True))
        found: dict[Target, Any] = {}
        for key in self.layout.keys_on(ps):
            total, mean = _total_and_mean(next(columns), key.dtype, count)
            means = self.layout.unpack(mean, key)
            for place, value in self.layout.unpack(total, key).items():
                target = self._dense[place]
                found[target] = value if target.field == "sums" else means[place]
        for rows in self._rows_on(ps):
            found[rows.target] = tables.mean(next(columns), next(columns), rows.shape, count)
        return found

    def totals(self, servers: Sequence[Combined]) -> Totals:
        """Return the totals of an update from the results of `combine` on all servers."""
        found = {target: value for combined in servers for target, value in combined.items()}
        return Totals(
            **{
                field: [found.get(Target(field, number)) for number in range(count)]
                for field, count in self._counts.items()
            }
        )

    def _rows_on(self, ps: int) -> list[Rows]:
        return [rows for rows in self._rows if rows.ps == ps]


def _total_and_mean(parts: Sequence[Tensor], dtype: tf.DType, count: Any) -> tuple[Tensor, Tensor]:
    """Return the sum of buffers, 16-bit ones in float32, and the sum divided by `count`."""
    if dtype.size < 4 and not dtype.is_integer:  # float16 overflows; bfloat16 loses 1% at N = 50.
        parts = [tf.cast(part, tf.float32) for part in parts]
    total = tf.add_n(list(parts))
    count = tf.cast(count, total.dtype)
    mean = total // count if dtype.is_integer else total / count
    return tf.cast(total, dtype), tf.cast(mean, dtype)


def _by_target(fields: Mapping[str, Sequence[Any]]) -> dict[Target, Any]:
    """Return what is in some fields of `Results`, by target."""
    return {
        Target(field, number): value
        for field, values in fields.items()
        for number, value in enumerate(values)
    }


def _entry(variable: Any) -> Entry:
    key = Key(runtime.ps_index(variable.device), tf.as_dtype(variable.dtype))
    return Entry(tuple(variable.shape), key)


def _finite(values: Tensor) -> Tensor:
    return tf.reduce_all(tf.math.is_finite(values))
