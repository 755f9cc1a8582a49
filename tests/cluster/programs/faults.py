"""Trains a small model on a local cluster whose tasks are killed, frozen, thawed and restarted.

The one argument is JSON:

    workers, ps, replicas   of the cluster; all other workers are backups
    worker_timeout_s, server_timeout_s, stall_timeout_s
    on_shortage             "wait" if missing; or "shrink" or "fill"
    updates                 to make
    faults                  a list of [update, what, job, index], in order of their updates; `what`
                            is kill, freeze, thaw or start
    in_validation           the same, done when a validation begins: a list of [what, job, index]
    finish                  whether every worker that is started again is awaited: the next fault
                            comes, and training ends, when it has contributed

Prints one JSON object: what happened, the longest pause between two updates, the counts of the
timeline, and `sizes`: [gradients, updates] pairs, of how many gradients consecutive updates were
made.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_backup
from tf_backup.timeline.schema import ACCEPTED, CONTRIBUTION, Settings, Timeline

tf.get_logger().setLevel(logging.CRITICAL)
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")

BATCH_S = 0.01


def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
    rng = np.random.default_rng(context.input_pipeline_id)
    x = rng.normal(size=[4, 8, 3]).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, x @ [[1.0], [-2.0], [0.5]])).repeat()
    return tf_backup.delay(dataset, BATCH_S)


def validation(context: tf.distribute.InputContext) -> tf.data.Dataset:
    return tf_backup.delay(batches(context).take(40), 0.05)


class Faults(keras.callbacks.Callback):  # type: ignore[misc]
    """Applies the planned faults to the cluster, and records the times of updates."""

    def __init__(self, local: tf_backup.LocalCluster, plan: dict[str, Any]) -> None:
        super().__init__()
        self.local, self.plan = local, plan
        self.faults = list(plan.get("faults", []))
        self.times: list[float] = []
        self.done: list[tuple[float, int, Any]] = []
        self.restarts: list[dict[str, Any]] = []
        self.evaluations: list[float] = []

    def do(self, what: str, job: str, index: int) -> None:
        if what == "kill":
            self.local.kill_task(job, index)
        elif what == "start":
            self.local.start_task(job, index)
            before = self.accepted(index) if job == "worker" else 0
            self.restarts.append({"worker": index, "before": before, "since": time.monotonic()})
        else:
            number = signal.SIGSTOP if what == "freeze" else signal.SIGCONT
            os.kill(self.local.pid(job, index), number)
        self.done.append((time.monotonic(), len(self.times), [what, job, index]))

    def accepted(self, worker: int) -> int:
        return int(self.model.optimizer.contributions.workers[worker].accepted)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.times.append(time.monotonic())
        made = len(self.times)
        for restart in self.restarts:
            # One contribution may still have been on the server.
            back = self.accepted(restart["worker"]) > restart["before"] + 1
            if "back_s" not in restart and back:
                restart["back_s"] = time.monotonic() - restart["since"]
        all_back = all("back_s" in restart for restart in self.restarts)
        while self.faults and self.faults[0][0] <= made and (all_back or not self.plan["finish"]):
            self.do(*self.faults.pop(0)[1:])
            all_back = all("back_s" in restart for restart in self.restarts)
        if self.plan["finish"] and not self.faults and all_back:
            self.model.stop_training = made > self.plan["updates"]

    def on_test_begin(self, logs: Any = None) -> None:
        self.began = time.monotonic()
        for fault in self.plan.get("in_validation", []):
            self.do(*fault)

    def on_test_end(self, logs: Any = None) -> None:
        self.evaluations.append(time.monotonic() - self.began)

    @property
    def longest_pause(self) -> float:
        return float(np.max(np.diff(self.times), initial=0.0))


def later(seconds: float, faults: Faults, fault: list[Any]) -> None:
    threading.Timer(seconds, faults.do, fault).start()


def main() -> None:
    plan: dict[str, Any] = json.loads(sys.argv[1])
    timeouts = {name: plan[name] for name in ("worker_timeout_s", "server_timeout_s")}
    with tf_backup.LocalCluster(plan["workers"], plan["ps"], **timeouts) as local:
        with local.strategy().scope():
            keras.utils.set_random_seed(1)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            optimizer = tf_backup.wrap(
                keras.optimizers.SGD(0.1),
                plan["replicas"],
                plan["workers"] - plan["replicas"],
                stall_timeout_s=plan["stall_timeout_s"],
                on_shortage=plan.get("on_shortage", "wait"),
            )
            model.compile(optimizer, "mse")
        faults = Faults(local, plan)
        for seconds, *fault in plan.get("later", []):
            later(seconds, faults, fault)
        rows: list[Any] = [np.zeros(0, CONTRIBUTION)]
        optimizer.listen(lambda contributions, updates: rows.append(contributions))
        updates = 100_000 if plan["finish"] else plan["updates"]
        validate = {"validation_data": validation} if "in_validation" in plan else {}
        result: dict[str, Any] = {"error": None}
        begin = time.monotonic()
        try:
            model.fit(batches, steps_per_epoch=updates, verbose=0, callbacks=[faults], **validate)
        except tf_backup.TfBackupError as error:
            result.update(error=type(error).__name__, message=str(error))
        result["fit_s"] = time.monotonic() - begin
        result["since_last_fault_s"] = time.monotonic() - faults.done[-1][0] if faults.done else 0
        result["pause_s"] = faults.longest_pause
        result["restarts"] = faults.restarts
        result["evaluations_s"] = faults.evaluations
        if result["error"] is None:
            result["iterations"] = int(optimizer.iterations)
            result["loss"] = float(model.history.history["loss"][-1])
            result["total"] = optimizer.contributions.total.as_dict()
            contributions = np.concatenate(rows)
            result["timeline"] = Timeline(Settings(1), contributions, rows[0]).counts()
            used = contributions["update"][contributions["verdict"] == ACCEPTED]
            sizes = np.bincount(used).tolist()
            result["sizes"] = [[size, len(list(run))] for size, run in itertools.groupby(sizes)]
            result["workers"] = [each.as_dict() for each in optimizer.contributions.workers]
        stop = time.monotonic()
    result["stop_s"] = time.monotonic() - stop
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
