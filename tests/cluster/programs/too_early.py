"""Tries objects that a script makes before its strategy, and prints the outcome of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_backup

X, Y = np.ones([8, 3], np.float32), np.ones([8, 1], np.float32)


def main() -> None:
    """Run the program."""
    arrays = tf.constant(X), tf.constant(Y)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    dropout, metric = keras.layers.Dropout(0.5), keras.metrics.MeanAbsoluteError()
    optimizer, loss = keras.optimizers.SGD(), keras.losses.MeanSquaredError()
    with tf_backup.LocalCluster(workers=1, ps=1) as cluster:
        strategy = cluster.strategy()

        def model(*layers: Any, **options: Any) -> Any:
            with strategy.scope():
                made = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
                made.compile(tf_backup.wrap("sgd", replicas=1), loss, **options)
            return made

        def wrap() -> None:
            with strategy.scope():
                tf_backup.wrap(optimizer, replicas=1)

        cases: dict[str, Callable[[], Any]] = {
            "tensors": lambda: model().fit(*arrays, verbose=0),
            "data set": lambda: model().fit(dataset, validation_data=dataset, verbose=0),
            "predicted data set": lambda: model().predict(dataset, verbose=0),
            "layer with a seed": lambda: model(dropout).fit(X, Y, verbose=0),
            "metric": lambda: model(metrics=[metric]).fit(X, Y, verbose=0),
            "optimizer": wrap,
        }
        for name, case in cases.items():
            try:
                case()
                print(f"{name}: works", flush=True)
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
