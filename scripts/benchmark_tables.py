"""Measures the cost of an embedding table: network bytes per step, and its server's memory.

A small model with one table trains on a local cluster of two workers and one parameter server, for
each number of rows and optimizer. The bytes are all those of the loopback interface, so nothing
else should use it meanwhile. Linux only.

Example:

  python scripts/benchmark_tables.py --csv=results/tables.csv
"""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from absl import app, flags

from scripts import console, flag_values
from scripts.benchmarks.counters import loopback_bytes, peak_mib

flags.DEFINE_multi_integer("rows", [1_000, 1_000_000], "Rows of the table; may be repeated.")
flags.DEFINE_integer("columns", 64, "Columns of the table, float32.")
flags.DEFINE_integer("ids", 640, "Ids that a worker looks up in a step, drawn uniformly.")
flags.DEFINE_integer("steps", 20, "Steps to measure.")
flags.DEFINE_string("csv", None, "Where to write the table that is printed.")

OPTIMIZERS = ("SGD", "momentum", "Adagrad", "Adam")
COLUMNS = ("rows", "columns", "optimizer", "ids", "bytes_per_step", "s_per_step", "ps_peak_mib")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of the flags, by their names; None if a flag without a default is not given."""

    rows: Sequence[int]
    columns: int
    ids: int
    steps: int
    csv: str | None


def main(argv: Sequence[str]) -> None:
    """Measure, print and write the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}.")
    console.set_up()
    settings = flag_values.read(Settings)
    rows = []
    for size in settings.rows:
        for name in OPTIMIZERS:
            rows.append(measure(settings, size, name))
            print(", ".join(f"{column} {rows[-1][column]}" for column in COLUMNS), flush=True)
    if settings.csv:
        with open(settings.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def measure(settings: Settings, rows: int, name: str) -> dict[str, Any]:
    """Train on a new cluster, and return a row of the table."""
    import keras

    import tf_backup

    seen: dict[int, tuple[int, float]] = {}

    def note(batch: int, logs: Any) -> None:
        seen[batch] = (loopback_bytes(), time.monotonic())

    with tf_backup.LocalCluster(workers=2, ps=1) as cluster:
        with cluster.strategy().scope():
            model = keras.Sequential(
                [
                    keras.Input((settings.ids // 32,), dtype="int64"),
                    keras.layers.Embedding(rows, settings.columns),
                    keras.layers.GlobalAveragePooling1D(),
                    keras.layers.Dense(1),
                ]
            )
            model.compile(tf_backup.wrap(optimizer(name), replicas=2), "mse")
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=note)
        data, steps = batches(rows, settings.ids), settings.steps + 2
        model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[callback])
        peak = peak_mib(cluster.pid("ps", 0))
    (first, begin), (last, end) = seen[1], seen[settings.steps + 1]
    values = (
        rows,
        settings.columns,
        name,
        settings.ids,
        round((last - first) / settings.steps),
        round((end - begin) / settings.steps, 4),
        peak,
    )
    return dict(zip(COLUMNS, values, strict=True))


def optimizer(name: str) -> Any:
    """Return a Keras optimizer by its name in the table."""
    import keras

    if name in ("SGD", "momentum"):
        return keras.optimizers.SGD(0.1, momentum=0.9 if name == "momentum" else 0.0)
    return getattr(keras.optimizers, name)(0.01)


def batches(rows: int, ids: int) -> Any:
    """Return a function that gives each worker random ids, [32, ids / 32] in a batch."""
    import numpy as np
    import tensorflow as tf

    def dataset_fn(context: tf.distribute.InputContext) -> tf.data.Dataset:
        rng = np.random.default_rng(context.input_pipeline_id)
        drawn = rng.integers(rows, size=[40, 32, ids // 32])
        ones = np.ones([40, 32, 1], np.float32)
        return tf.data.Dataset.from_tensor_slices((drawn, ones)).repeat()

    return dataset_fn


if __name__ == "__main__":
    app.run(main)
