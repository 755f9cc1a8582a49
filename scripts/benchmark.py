"""Gradients per second: tf_backup beside its peers, on one local cluster, in turns.

  one_device       plain Keras in this process: the ceiling
  stock_async      TensorFlow's asynchronous parameter-server step: a closure per gradient
  tf_backup        synchronous SGD with backup workers: computed gradients, the late ones included
  tf_backup_async  asynchronous SGD: every gradient is an update

The model is a chain of square dense layers, whose many variables are what transport costs
depend on. Timings of a busy machine are noisy: they take turns, and the ratios of a round
are what to compare.

Example (two minutes on two cores):

  python scripts/benchmark.py --csv=results/benchmark.csv
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from absl import app, flags

from scripts import console

FLAGS = flags.FLAGS
flags.DEFINE_integer("layers", 61, "Dense layers of the model, each a matrix and a bias.")
flags.DEFINE_integer("units", 64, "Width of each layer.")
flags.DEFINE_integer("batch_size", 8, "Examples in one worker's batch.")
flags.DEFINE_integer("workers", 3, "Worker processes; N is one less, b is 1.")
flags.DEFINE_integer("ps_tasks", 1, "Parameter-server processes.")
flags.DEFINE_integer("steps", 100, "Gradients (tf_backup: updates) in one measurement.")
flags.DEFINE_integer("rounds", 3, "How often each is measured.")
flags.DEFINE_string("csv", None, "Where to write the measurements.")


def new_model() -> Any:
    """Returns a chain of dense layers: [batch, units] to [batch, units]."""
    import keras

    layers = [keras.layers.Dense(FLAGS.units, activation="tanh") for _ in range(FLAGS.layers)]
    return keras.Sequential([keras.Input((FLAGS.units,)), *layers])


def batches(context: Any = None) -> Any:
    """Returns the same batch for ever."""
    import tensorflow as tf

    del context
    shape = [FLAGS.batch_size, FLAGS.units]
    return tf.data.Dataset.from_tensors((tf.ones(shape), tf.zeros(shape))).repeat()


def one_device() -> Callable[[], float]:
    """Returns a function that measures plain Keras, in gradients per second."""
    import keras

    model = new_model()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    data = batches()

    def measure() -> float:
        begin = time.monotonic()
        model.fit(data, steps_per_epoch=FLAGS.steps, shuffle=False, verbose=0)
        return FLAGS.steps / (time.monotonic() - begin)

    return measure


def stock_async(strategy: Any) -> Callable[[], float]:
    """Returns a function that measures TensorFlow's own step, in gradients per second."""
    import keras
    import tensorflow as tf

    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        model = new_model()
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)
    loss_function = keras.losses.MeanSquaredError()
    iterator = iter(coordinator.create_per_worker_dataset(batches))

    @tf.function
    def step(iterator: Any) -> None:
        x, y = next(iterator)

        def replica() -> None:
            with tf.GradientTape() as tape:
                loss = loss_function(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        strategy.run(replica)

    def measure() -> float:
        begin = time.monotonic()
        for _ in range(FLAGS.steps):
            coordinator.schedule(step, args=(iterator,))
        coordinator.join()
        return FLAGS.steps / (time.monotonic() - begin)

    return measure


def with_backups(strategy: Any, replicas: int, max_staleness: int | None) -> Callable[[], float]:
    """Returns a function that measures tf_backup, in gradients per second."""
    import keras

    import tf_backup

    with strategy.scope():
        model = new_model()
        optimizer = tf_backup.wrap(
            keras.optimizers.SGD(0.01),
            replicas,
            FLAGS.workers - replicas,
            max_staleness=max_staleness,
        )
        model.compile(optimizer, "mse")

    def measure() -> float:
        before = optimizer.contributions.total.computed
        begin = time.monotonic()
        model.fit(batches, steps_per_epoch=FLAGS.steps, verbose=0)
        seconds = time.monotonic() - begin
        return (optimizer.contributions.total.computed - before) / seconds

    return measure


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    console.set_up()
    import tensorflow as tf

    import tf_backup

    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = tf_backup.parameter_server_strategy(FLAGS.workers, FLAGS.ps_tasks)
    peers = {
        "one_device": one_device(),
        "stock_async": stock_async(strategy),
        "tf_backup": with_backups(strategy, FLAGS.workers - 1, max_staleness=0),
        "tf_backup_async": with_backups(strategy, 1, max_staleness=None),
    }
    for measure in peers.values():
        measure()  # Traces, and connects workers with servers.
    rows = []
    for turn in range(FLAGS.rounds):
        rates = {name: measure() for name, measure in peers.items()}
        rows.append({"round": turn, **{name: f"{rate:.1f}" for name, rate in rates.items()}})
        ours = [name for name in rates if name.startswith("tf_backup")]
        ratios = [f"{name}/stock_async {rates[name] / rates['stock_async']:.2f}" for name in ours]
        print(
            "  ".join([*(f"{name} {rate:.1f}/s" for name, rate in rates.items()), *ratios]),
            flush=True,
        )
    if FLAGS.csv:
        with open(FLAGS.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
