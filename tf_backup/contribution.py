"""One worker's results on one batch, in the form in which they travel."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup import _tf
from tf_backup.objective import Objective, Results
from tf_backup.packing import Entry, Key, Layout

Tensor = Any


class Contribution:
    """Which results there are, and the parameter server and dtype that each belongs to.

    Each result travels to the server of the variable that it is for, metric sums included:
    these are then exact over the accepted batches, once each, for free.

    Args:
      objective: whose variables the results are for.
      results: as a traced computation returns them; what is None there does not travel.
      replicas: N.
    """

    def __init__(self, objective: Objective, results: Results, replicas: int) -> None:
        targets = [*objective.trainable, *objective.state, *objective.sums]
        flat = [*results.gradients, *results.changes, *results.sums]
        self._present = [index for index, result in enumerate(flat) if result is not None]
        self._targets = len(targets)
        self._first_sum = len(targets) - len(objective.sums)
        self._replicas = replicas
        self.layout = Layout([_entry(targets[index]) for index in self._present])

    def tensors(self, results: Results) -> list[Tensor]:
        """Returns a worker's results as they are sent, one per entry of the layout.

        The chief divides everything by N; what is to be added up is multiplied by N here.
        """
        flat: list[Any] = [*results.gradients, *results.changes, *results.sums]
        return [
            tf.cast(
                flat[index] * self._replicas if index >= self._first_sum else flat[index],
                entry.key.dtype,
            )
            for index, entry in zip(self._present, self.layout.entries, strict=True)
        ]

    def nothing(self) -> list[Tensor]:
        """Returns tensors in the place of those of a worker that has no data."""
        return [tf.zeros(entry.shape, entry.key.dtype) for entry in self.layout.entries]

    def totals(self, buffers: dict[Key, Tensor]) -> list[Tensor | None]:
        """Returns for every target the mean (for a sum variable the sum) of N contributions.

        Args:
          buffers: the sums of the N contributions, each on its parameter server.
        """
        found: dict[int, Tensor] = {}
        for key, buffer in buffers.items():
            with tf.device(_tf.ps_device(key.ps)):
                whole = key.dtype.is_integer
                mean = buffer // self._replicas if whole else buffer / self._replicas
                found.update(self.layout.unpack(mean, key))
        values: list[Tensor | None] = [None] * self._targets
        for place, target in enumerate(self._present):
            values[target] = found[place]
        return values


def _entry(variable: Any) -> Entry:
    key = Key(_tf.ps_index(variable.device), tf.as_dtype(variable.dtype))
    return Entry(tuple(variable.shape), key)
