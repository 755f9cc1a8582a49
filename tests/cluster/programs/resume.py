"""Trains a small model with BackupAndRestore; stops between two epochs until it is killed.

Arguments: a directory, the numbers of workers and parameter servers, and, for a run that is to
be killed, the epoch after which it waits. Only the first two workers have data, so that every
update uses the same two gradients, however many workers there are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_backup

UPDATES = 5


def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
    rng = np.random.default_rng(context.input_pipeline_id)
    x = rng.normal(size=[UPDATES, 4, 3]).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, x[..., :1]))
    return data.repeat() if context.input_pipeline_id < 2 else data.take(0)


class Wait(keras.callbacks.Callback):  # type: ignore[misc]
    """Records epochs; waits to be killed after one of them (none if negative)."""

    def __init__(self, directory: Path, last: int) -> None:
        super().__init__()
        self.directory = directory
        self.last = last
        self.epochs: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(epoch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.last >= 0 and epoch == self.last + 1:
            (self.directory / f"epoch-{self.last}-done").touch()
            test = os.getppid()
            while os.getppid() == test:  # It kills this process, or ends itself.
                time.sleep(0.1)
            sys.exit("The test that had this process wait is gone.")


def main() -> None:
    directory, workers, ps, last = Path(sys.argv[1]), *map(int, [*sys.argv[2:], -1][:3])
    directory.mkdir(exist_ok=True)
    with tf_backup.LocalCluster(workers=workers, ps=ps) as local:
        with local.strategy().scope():
            keras.utils.set_random_seed(5)
            model = keras.Sequential(
                [
                    keras.Input((3,)),
                    keras.layers.Dense(4, activation="tanh"),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dropout(0.5),
                    keras.layers.Dense(1),
                ]
            )
            inner = keras.optimizers.Adam(0.1, use_ema=True)
            model.compile(tf_backup.wrap(inner, replicas=2, backups=workers - 2), "mse")
        wait = Wait(directory, last)
        backup = keras.callbacks.BackupAndRestore(str(directory / "backup"))
        model.fit(batches, epochs=4, steps_per_epoch=UPDATES, verbose=0, callbacks=[wait, backup])
        (directory / "result.json").write_text(
            json.dumps(
                {
                    "epochs": wait.epochs,
                    "iterations": int(model.optimizer.iterations),
                    "variables": [
                        v.numpy().tolist()
                        for v in [
                            *model.trainable_variables,
                            *model.layers[1].non_trainable_variables,
                            *inner.variables,
                        ]
                    ],
                }
            )
        )


if __name__ == "__main__":
    main()
