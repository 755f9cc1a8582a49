"""Fits and evaluates repeatedly on one local cluster, and records the resources of each process.

    many_fits.py FITS UPDATES NEW

makes FITS fits of UPDATES updates each, with a new model before every NEW-th. Prints one JSON
object: the threads, file descriptors and private memory (MiB) of each process after each fit, and
the seconds that each fit, each evaluation and the end of the cluster took.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

import tf_backup

X = np.random.default_rng(0).normal(size=[64, 8]).astype(np.float32)
Y = X @ np.ones([8, 1], np.float32)


def resources(pid: int) -> dict[str, float]:
    process = psutil.Process(pid)
    memory = process.memory_info()
    return {
        "threads": process.num_threads(),
        "fds": process.num_fds(),
        "mib": (memory.rss - memory.shared) / 2**20,
    }


def main() -> None:
    fits, updates, new = map(int, sys.argv[1:])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    seen: dict[str, Any] = {"fit_s": [], "evaluate_s": [], "processes": {}}
    with tf_backup.LocalCluster(workers=3, ps=2) as local:
        strategy = local.strategy()
        pids = {"chief": os.getpid()}
        pids |= {f"worker {i}": local.pid("worker", i) for i in range(3)}
        pids |= {f"ps {i}": local.pid("ps", i) for i in range(2)}
        for number in range(fits):
            if number % new == 0:
                with strategy.scope():
                    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
                    optimizer = tf_backup.wrap(keras.optimizers.Adam(0.01), replicas=2, backups=1)
                    model.compile(optimizer, "mse")
            begin = time.monotonic()
            model.fit(X, Y, batch_size=8, steps_per_epoch=updates, verbose=0)
            middle = time.monotonic()
            model.evaluate(X, Y, verbose=0)
            seen["fit_s"].append(middle - begin)
            seen["evaluate_s"].append(time.monotonic() - middle)
            gc.collect()
            for name, pid in pids.items():
                seen["processes"].setdefault(name, []).append(resources(pid))
        begin = time.monotonic()
    seen["end_s"] = time.monotonic() - begin
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
