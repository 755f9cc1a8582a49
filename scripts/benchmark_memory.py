"""Measures the peak memory of a parameter server and of a worker.

Four dense layers train with N = 3, b = 1 on a local cluster, for each optimizer and width. Example:

  python scripts/benchmark_memory.py --csv=memory.csv
"""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from absl import app, flags

from scripts import console, flag_values
from scripts.benchmarks.counters import peak_mib

flags.DEFINE_multi_enum(
    "optimizer", ["sgd", "adam"], ["sgd", "adam", "rmsprop", "adagrad"], "May be repeated."
)
flags.DEFINE_multi_integer(
    "width", [64, 2048], "Units of each of the four layers; may be repeated.", lower_bound=1
)
flags.DEFINE_string("csv", "memory.csv", "File to write.")

COLUMNS = ("optimizer", "workers", "parameters_mib", "ps_peak_mib", "worker_peak_mib")
WORKERS = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of the flags, by their names."""

    optimizer: Sequence[str]
    width: Sequence[int]
    csv: str


def measure(optimizer: str, width: int) -> dict[str, Any]:
    """Train a model, and return a row of the table."""
    import keras
    import tensorflow as tf

    import tf_backup

    def batches(context: Any) -> Any:
        del context
        return tf.data.Dataset.from_tensors((tf.ones([4, width]), tf.ones([4, width]))).repeat()

    with tf_backup.LocalCluster(workers=WORKERS, ps=1) as cluster:
        with cluster.strategy().scope():
            layers = [keras.layers.Dense(width) for _ in range(4)]
            model = keras.Sequential([keras.Input((width,)), *layers])
            wrapped = tf_backup.wrap(keras.optimizers.get(optimizer), WORKERS - 1, 1)
            model.compile(wrapped, "mse")
        model.fit(batches, steps_per_epoch=40, verbose=0)
        mib = model.count_params() * 4 / 2**20
        peaks = peak_mib(cluster.pid("ps", 0)), peak_mib(cluster.pid("worker", 0))
    return dict(zip(COLUMNS, (optimizer, WORKERS, round(mib, 1), *peaks), strict=True))


def main(argv: Sequence[str]) -> None:
    """Measure, print and write the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}.")
    console.set_up()
    settings = flag_values.read(Settings)
    with open(settings.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for optimizer in settings.optimizer:
            for width in settings.width:
                row = measure(optimizer, width)
                print(row, flush=True)
                writer.writerow(row)


if __name__ == "__main__":
    app.run(main)
