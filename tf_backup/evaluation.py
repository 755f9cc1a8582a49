"""Evaluation on all workers: each shard of the data once, on whichever worker is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_backup import _tf
from tf_backup.data import WorkerData
from tf_backup.snapshot import Snapshot

Tensor = Any


def evaluate(
    strategy: Any,
    snapshot: Snapshot,
    data: WorkerData,
    compute: Callable[[Sequence[Tensor], Any], list[Tensor]],
    zeros: Sequence[Tensor],
) -> list[Tensor]:
    """Adds up a function's results over all batches.

    A worker that dies leaves its shard to another, which begins it anew: since a shard's sums
    travel when it is done, every batch counts once.

    Args:
      strategy: whose workers compute.
      snapshot: of the variables that the function reads; it is written here.
      data: the batches, one pipeline per shard.
      compute: from the variables' values and a batch to results; called in a graph.
      zeros: of the results' shapes and dtypes.

    Returns:
      The sums, on the coordinator.
    """
    coordinator = _tf.coordinator_of(strategy)

    def shard_sums(iterator: Any) -> list[Tensor]:
        values = snapshot.read_all()

        def body(batch: Any, sums: list[Tensor]) -> tuple[Any, list[Tensor]]:
            more = compute(values, batch.get_value())
            return iterator.get_next_as_optional(), [
                total + tf.cast(part, total.dtype) for total, part in zip(sums, more, strict=True)
            ]

        start = [iterator.get_next_as_optional(), list(zeros)]
        _, sums = tf.while_loop(
            lambda batch, sums: batch.has_value(), body, start, parallel_iterations=1
        )
        return list(sums)

    snapshot.publish()
    values = [
        coordinator.schedule(function, args=args) for function, args in data.functions(shard_sums)
    ]
    try:
        parts = [value.fetch() for value in values]
    finally:
        # Also clears the coordinator of an error that fetch has raised already.
        coordinator.join()
    return [tf.add_n(list(column)) for column in zip(*parts, strict=True)]
