"""Training on processes whose workers compute for as long as a model of delays says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from scripts.experiments.definition import Tick
from tf_backup.simulation.delays import Durations

_FEATURES = 3
_WARM_UP = 8  # Updates that are not measured: workers load their program.
_WITHOUT_END = 10**9  # Updates; the clock ends the training.
_DRAWN = 10_000  # Gradients of a worker until its durations repeat.


class Speed(NamedTuple):
    """Speed of a training: updates made, gradients that they used, and the time in seconds."""

    updates: int
    gradients: int
    seconds: float


def speed(
    workers: int,
    options: dict[str, Any],
    durations: Durations,
    seconds: float,
    seed: int,
    tick: Tick = lambda part: None,
) -> Speed:
    """Train on a local cluster with one parameter server for some time, and return the speed.

    Args:
      workers: number of workers.
      options: arguments of `tf_backup.wrap`.
      durations: how long the workers compute; see `tf_backup.simulation.delays`. The i-th gradient
        of a worker takes equally long with the same seed.
      seconds: how long to train.
      seed: seed of the durations.
      tick: called with the part that is done.
    """
    import keras

    import tf_backup

    with tf_backup.LocalCluster(workers, 1) as local:
        strategy = local.strategy()
        with strategy.scope():
            model = _network()
            model.compile(tf_backup.wrap(keras.optimizers.SGD(0.0), **options), "mse")
        data, clock = _batches(durations, seed), _clock(seconds, tick)
        model.fit(data, steps_per_epoch=_WARM_UP, verbose=0)
        before = model.optimizer.contributions.total.accepted
        model.fit(data, steps_per_epoch=_WITHOUT_END, callbacks=[clock], verbose=0)
        used = model.optimizer.contributions.total.accepted - before
    return Speed(clock.updates, used, clock.seconds)


def _network() -> Any:
    """Return a model that computes for as long as its second input says, in seconds."""
    import keras
    import tensorflow as tf

    class Busy(keras.layers.Layer):
        """Returns its first input after the first of the seconds in its second input."""

        def call(self, inputs: Any) -> Any:
            x, seconds = inputs
            once = tf.data.Dataset.from_tensors(tf.zeros([]))
            waiting = tf.raw_ops.SleepDataset(
                input_dataset=tf.data.experimental.to_variant(once),
                sleep_microseconds=tf.cast(seconds[0, 0] * 1e6, tf.int64),
                output_types=[tf.float32],
                output_shapes=[[]],
            )
            slept = tf.data.experimental.from_variant(waiting, once.element_spec)
            return x + slept.take(1).get_single_element()

    inputs = [keras.Input((_FEATURES,)), keras.Input((1,))]
    return keras.Model(inputs, keras.layers.Dense(1)(Busy()(inputs)))


def _batches(durations: Durations, seed: int) -> Callable[[Any], Any]:
    """Return a function from a worker's `tf.distribute.InputContext` to its batches of one."""
    import tensorflow as tf

    def of_worker(context: Any) -> Any:
        worker = context.input_pipeline_id
        rng = np.random.default_rng([seed, worker])
        seconds = durations(rng, np.full(_DRAWN, worker)).astype(np.float32)
        data = tf.data.Dataset.from_tensor_slices(seconds.reshape([-1, 1, 1])).repeat()
        x, y = tf.ones([1, _FEATURES]), tf.ones([1, 1])
        return data.map(lambda each: ((x, each), y))

    return of_worker


def _clock(seconds: float, tick: Tick) -> Any:
    """Return a callback that ends the training after some time, and counts its updates."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.updates, self.seconds, self._began = 0, 0.0, 0.0

        def on_train_begin(self, logs: Any = None) -> None:
            self._began = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.updates += 1
            self.seconds = time.monotonic() - self._began
            tick(min(1.0, self.seconds / seconds))
            if self.seconds >= seconds:
                self.model.stop_training = True

    return Clock()
