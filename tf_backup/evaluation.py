"""Evaluation on all workers: each shard of the data once, on whichever worker is free."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_backup import _tf, errors, runs
from tf_backup.data import WorkerData
from tf_backup.failures import GONE, check_servers, gist, told_plainly, worker_failed
from tf_backup.objective import Measurement
from tf_backup.snapshot import Snapshot

log = logging.getLogger(__name__)

Tensor = Any

_POLL_S = 0.01
_PROBE_EVERY_S = 10.0


class Evaluation:
    """Computes a measurement over all batches of a data set.

    A worker that dies leaves its shard to another, which begins it anew: since a shard's sums
    travel when it is done, every batch counts once.

    Args:
      strategy: whose workers compute.
      measurement: what workers compute.
      stall_timeout_s: how long to wait, when no worker is alive, for one to come back.
    """

    def __init__(
        self,
        strategy: Any,
        measurement: Measurement,
        stall_timeout_s: float,
    ) -> None:
        self._strategy = strategy
        self._snapshot = Snapshot(measurement.read)
        self._measurement = measurement
        self._stall_timeout_s = stall_timeout_s

    def run(self, data: WorkerData) -> Any:
        """Returns the measurement's results over all of `data`.

        Raises:
          ParameterServerLost, WorkersLost, WorkerFailed: as in training.
        """
        runs.interrupt(self._strategy)
        with told_plainly(self._strategy):
            self._snapshot.publish()
        try:
            parts = self._shards(data)
        except GONE as error:
            # Somebody was out of reach for a moment. Nothing was added up yet.
            check_servers(self._strategy, error)
            log.warning("Evaluation was interrupted (%s) and begins again.", gist(error))
            try:
                parts = self._shards(data)
            except tf.errors.OpError as again:
                raise worker_failed(self._strategy, None, again) from again
        except tf.errors.OpError as error:
            raise worker_failed(self._strategy, None, error) from error
        sums = [tf.add_n(list(column)) for column in zip(*parts, strict=True)]
        return self._measurement.results(sums)

    def _shards(self, data: WorkerData) -> list[Any]:
        """Returns the sums of each shard.

        Raises:
          tf.errors.OpError: what a worker raised; the coordinator is usable again.
        """
        coordinator = _tf.coordinator_of(self._strategy)
        values = [
            coordinator.schedule(function, args=args)
            for function, args in data.functions(self._shard_sums)
        ]
        self._await(coordinator, values)
        parts, failures = [], []
        for value in values:
            try:
                parts.append(value.fetch())
            except tf.errors.OpError as error:
                failures.append(error)
        if failures:
            _tf.clear_errors(coordinator)
            # One shard's failure cancels the others: what tells something is the first.
            telling = [error for error in failures if not isinstance(error, GONE)]
            raise (telling or failures)[0]
        return parts

    def _shard_sums(self, iterator: Any) -> list[Tensor]:
        """Adds up the results of one shard; called on a worker, in a graph."""
        values = self._snapshot.read_all()
        seed = tf.zeros([2], tf.int64)
        specs = self._measurement.compute.structured_outputs
        zeros = [tf.zeros(spec.shape, spec.dtype) for spec in specs]

        def body(batch: Any, sums: list[Tensor]) -> tuple[Any, list[Tensor]]:
            more = self._measurement.compute(values, seed, batch.get_value())
            return iterator.get_next_as_optional(), [
                total + tf.cast(part, total.dtype) for total, part in zip(sums, more, strict=True)
            ]

        start = [iterator.get_next_as_optional(), zeros]
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
