"""Evaluation on all workers: each shard of the data once, on whichever worker is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_backup import _tf, errors
from tf_backup.data import WorkerData
from tf_backup.failures import GONE, check_servers, told_plainly, worker_failed
from tf_backup.snapshot import Snapshot

Tensor = Any

_POLL_S = 0.01
_PROBE_EVERY_S = 10.0


class Evaluation:
    """Adds up a function's results over all batches of a data set.

    A worker that dies leaves its shard to another, which begins it anew: since a shard's sums
    travel when it is done, every batch counts once.

    Args:
      strategy: whose workers compute.
      snapshot: of the variables that the function reads; it is written here.
      compute: from the variables' values and a batch to results; called in a graph.
      zeros: of the results' shapes and dtypes.
      stall_timeout_s: how long to wait, when no worker is alive, for one to come back.
    """

    def __init__(
        self,
        strategy: Any,
        snapshot: Snapshot,
        compute: Callable[[Sequence[Tensor], Any], list[Tensor]],
        zeros: Sequence[Tensor],
        stall_timeout_s: float,
    ) -> None:
        self._strategy = strategy
        self._snapshot = snapshot
        self._compute = compute
        self._zeros = list(zeros)
        self._stall_timeout_s = stall_timeout_s

    def run(self, data: WorkerData) -> list[Tensor]:
        """Returns the sums over all of `data`, on the coordinator.

        Raises:
          ParameterServerLost, WorkersLost, WorkerFailed: as in training.
        """
        coordinator = _tf.coordinator_of(self._strategy)
        with told_plainly(self._strategy):
            self._snapshot.publish()
        values = [
            coordinator.schedule(function, args=args)
            for function, args in data.functions(self._shard_sums)
        ]
        self._await(coordinator, values)
        try:
            parts = [value.fetch() for value in values]
        except tf.errors.OpError as error:
            if not isinstance(error, GONE):
                _tf.clear_errors(coordinator)
            raise worker_failed(self._strategy, None, error) from error
        return [tf.add_n(list(column)) for column in zip(*parts, strict=True)]

    def _shard_sums(self, iterator: Any) -> list[Tensor]:
        """Adds up the results of one shard; called on a worker, in a graph."""
        values = self._snapshot.read_all()

        def body(batch: Any, sums: list[Tensor]) -> tuple[Any, list[Tensor]]:
            more = self._compute(values, batch.get_value())
            return iterator.get_next_as_optional(), [
                total + tf.cast(part, total.dtype) for total, part in zip(sums, more, strict=True)
            ]

        start = [iterator.get_next_as_optional(), self._zeros]
        _, sums = tf.while_loop(
            lambda batch, sums: batch.has_value(), body, start, parallel_iterations=1
        )
        return list(sums)

    def _await(self, coordinator: Any, values: Sequence[Any]) -> None:
        """Waits until all shards are done, or have failed."""
        alive_since = probed = time.monotonic()
        while not all(map(_tf.is_available, values)):
            time.sleep(_POLL_S)
            now = time.monotonic()
            if _tf.living_workers(coordinator):
                alive_since = now
            if now - alive_since > self._stall_timeout_s:
                raise errors.WorkersLost(
                    f"No worker has been alive for {now - alive_since:.0f} s. Start them again, "
                    "and run this command again."
                )
            if now - probed > _PROBE_EVERY_S:
                check_servers(self._strategy)
                probed = now
