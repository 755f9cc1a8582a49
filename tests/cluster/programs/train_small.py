"""Trains a small model on a local cluster, while something happens to the cluster.

The first argument names what happens; the second may be "asynchronous". Prints one JSON object.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import keras
import tensorflow as tf

import tf_backup
from tests.cluster.processes import wait_until
from tf_backup.network.status import ask

tf.get_logger().setLevel(logging.CRITICAL)
logging.basicConfig(level=logging.INFO, stream=sys.stderr)


def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
    del context
    dataset = tf.data.Dataset.from_tensors((tf.ones([4, 3]), tf.ones([4, 1]))).repeat()
    return tf_backup.delay(dataset, 0.01)


def validation(context: tf.distribute.InputContext) -> tf.data.Dataset:
    return tf_backup.delay(batches(context).take(20), 0.1)


class Happening(keras.callbacks.Callback):  # type: ignore[misc]
    """Does something to the cluster at certain updates."""

    def __init__(self, local: tf_backup.LocalCluster, what: str) -> None:
        super().__init__()
        self.local = local
        self.what = what
        self.since = time.monotonic()
        self.back = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 20 and self.what == "restart_ps":
            self.local.kill_task("ps", 1)
            self.local.start_task("ps", 1)
            wait_until(lambda: ask(self.local.config.addresses["ps"][1]))
            self.since = time.monotonic()
        if batch == 20 and self.what == "lose_workers":
            for worker in (1, 2):
                self.local.kill_task("worker", worker)
            self.since = time.monotonic()
        if batch == 20 and self.what == "restart":
            self.before = self.records()[1].accepted
            self.local.kill_task("worker", 1)
        if batch == 60 and self.what == "restart":
            self.local.start_task("worker", 1)
        if batch > 60 and self.what == "restart" and not self.back:
            self.back = self.records()[1].accepted > self.before + 5
            self.model.stop_training = self.back

    def on_test_begin(self, logs: Any = None) -> None:
        if self.what == "kill_ps_in_validation":
            self.local.kill_task("ps", 1)
            self.since = time.monotonic()
        if self.what == "lose_workers_in_validation":
            for worker in range(3):
                self.local.kill_task("worker", worker)
            self.since = time.monotonic()

    def records(self) -> Any:
        return self.model.optimizer.contributions.workers


def main() -> None:
    what = sys.argv[1]
    timeouts = {"worker_timeout_s": 5.0, "server_timeout_s": 10.0}
    with tf_backup.LocalCluster(workers=3, ps=2, **timeouts) as local:
        strategy = local.strategy()
        with strategy.scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            mode: dict[str, Any] = {"replicas": 2, "backups": 1}
            if sys.argv[2:] == ["asynchronous"]:
                mode = {"replicas": 1, "backups": 2, "max_staleness": None}
            optimizer = tf_backup.wrap(keras.optimizers.SGD(0.01), stall_timeout_s=8.0, **mode)
            model.compile(optimizer, "mse")
        happening = Happening(local, what)
        result: dict[str, Any] = {"error": None}
        updates = 20_000 if what == "restart" else 150
        try:
            model.fit(
                batches,
                steps_per_epoch=updates,
                verbose=0,
                callbacks=[happening],
                validation_data=validation if "validation" in what else None,
            )
        except tf_backup.TfBackupError as error:
            result["error"] = type(error).__name__
            result["message"] = str(error)
            result["seconds"] = time.monotonic() - happening.since
        else:
            result["iterations"] = int(optimizer.iterations)
            result["back"] = happening.back
            result["total"] = optimizer.contributions.total.as_dict()
            records = optimizer.contributions.workers
            result["workers"] = [record.as_dict() for record in records]
            result["with_staleness"] = [sum(record.staleness.values()) for record in records]
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
