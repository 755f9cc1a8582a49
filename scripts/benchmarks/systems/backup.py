"""tf_backup with `compile` and `fit` on a `LocalCluster`, as a user runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import keras

import tf_backup
from scripts.benchmarks import architectures, batches, keras_layers, update_times
from scripts.benchmarks.peer import set_threads
from scripts.benchmarks.spec import Spec
from tf_backup.timeline import parquet


class _Chief:
    """A compiled model on a running cluster.

    Args:
      spec: specification of the system.
      cluster: running cluster.
      log_dir: directory for the times of gradients, if the system writes them.
    """

    def __init__(self, spec: Spec, cluster: tf_backup.LocalCluster, log_dir: str) -> None:
        self.children = {
            job: [cluster.pid(job, index) for index in range(count)]
            for job, count in (("worker", spec.workers), ("ps", spec.ps))
        }
        self._spec = spec
        self._log_dir = log_dir
        self._began_us = 0
        self._callbacks = [tf_backup.StragglerMonitor(log_dir)] if spec.monitor else []
        self._architecture = architectures.ALL[spec.model]
        with cluster.strategy().scope():
            self._model: Any = keras_layers.build(self._architecture)
            optimizer = tf_backup.wrap(
                keras.optimizers.SGD(architectures.LEARNING_RATE),
                spec.replicas,
                spec.backups,
                max_staleness=None if spec.asynchronous else 0,
                **spec.options,
            )
            self._model.compile(optimizer, keras_layers.loss(self._architecture))

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Make updates of N gradients each."""
        self._began_us = time.time_ns() // 1000
        self._model.fit(self._batches, steps_per_epoch=steps, callbacks=self._callbacks, verbose=0)
        return steps

    def times(self) -> dict[str, float | None]:
        """Return the times of the last updates' parts, if they are recorded."""
        if not self._spec.monitor:
            return {}
        timeline = parquet.read(self._log_dir)
        return dataclasses.asdict(update_times.of(timeline, self._began_us))

    def _batches(self, context: Any) -> Any:
        """Return the data of a worker, delayed if it is the slow one."""
        worker = context.input_pipeline_id
        data = batches.repeated(self._architecture, worker)
        is_slow = worker == self._spec.workers - 1
        return tf_backup.delay(data, self._spec.slow_s if is_slow else 0.0)


@contextlib.contextmanager
def start(spec: Spec) -> Iterator[_Chief]:
    """Start a cluster, and build the model on it."""
    set_threads(spec.intra_op)
    with (
        tempfile.TemporaryDirectory(prefix="benchmark_") as log_dir,
        tf_backup.LocalCluster(spec.workers, spec.ps, threads=spec.intra_op) as cluster,
    ):
        yield _Chief(spec, cluster, log_dir)
