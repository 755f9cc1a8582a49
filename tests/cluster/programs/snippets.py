"""Runs the Python snippets of README.md and docs/, all in this process and on one local cluster.

    snippets.py FOLDER

The snippets of a page share their names and run in order, as if a reader had pasted them into one
script. `GIVEN` has what the text of a page takes from the reader's own script: data and models, but
no modules. `USED` uses what a snippet only defines. The working directory is FOLDER, and
FOLDER/errors.json gets the traceback of each snippet by its name, empty if there is none.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_backup
from tests.pages import SNIPPETS
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Exponential
from tf_backup.simulation.virtual_gate import simulated_timeline
from tf_backup.timeline import parquet

Names = dict[str, Any]

# Snippets that run in other tests, and where.
ELSEWHERE = {
    "docs/cluster.md 3": "tests/unit/cluster/test_timeouts.py: a cluster has one pair of timeouts",
    "docs/developing.md 1": "tests/cluster/test_snippets.py, with the fixtures that it is about",
    "docs/simulation.md 1": "tests/unit/simulation/test_virtual_cluster.py",
    "docs/simulation.md 2": "tests/unit/simulation/test_virtual_cluster.py",
}
GUIDE = "docs/from-your-script-to-a-cluster.md"
# This page comes first: it starts and ends a cluster of its own, and a process has one at a time.
LOCAL = "docs/cluster.md"
WORDS = ["bad", "good", "tale"]


def strategy() -> Any:
    """Return that of the cluster that the snippets make, too: it has the default size."""
    return tf_backup.parameter_server_strategy()


# --- Data


def images() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=[128, 28, 28, 1]).astype(np.float32)
    return x, rng.integers(10, size=[128])


def examples() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(images())


def batches() -> tf.data.Dataset:
    return examples().batch(32)


def pairs() -> tf.data.Dataset:
    """Return batches for regression."""
    x = np.random.default_rng(0).normal(size=[64, 8]).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1, keepdims=True))).batch(8)


def texts() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((["a good tale", "a bad tale"], [1, 0])).batch(2)


# --- Models


def dense(inputs: Any, outputs: int = 1) -> Any:
    return keras.Sequential([inputs, keras.layers.Flatten(), keras.layers.Dense(outputs)])


def photo_model() -> Any:
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((224, 224, 3)), *layers])


def sgd() -> Any:
    return tf_backup.wrap(keras.optimizers.SGD(0.01), replicas=3, backups=1)


@functools.cache
def classifier() -> Any:
    """Return a model of images, which several pages train."""
    with strategy().scope():
        model = dense(keras.Input((28, 28, 1)), 10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(sgd(), loss, metrics=["accuracy"])
    return model


class Averaged(keras.Model):  # type: ignore[misc]
    """Has a copy of its weights, for their averages."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.average = keras.layers.Dense(1), keras.layers.Dense(1, trainable=False)
        for layer in (self.dense, self.average):
            layer.build((None, 8))

    def call(self, x: Any) -> Any:
        return self.dense(x)


# --- What pages take from the reader's script


def of_arrays() -> Names:
    x, y = images()
    return {"x_train": x, "y_train": y, "x_test": x[:32], "y_test": y[:32]}


def untrained() -> Names:
    return {"model": dense(keras.Input((8,)))}


def of_photos() -> Names:
    """Return photos in files, and what reads and trains them on one device."""
    path = str(Path("photo.jpeg").absolute())
    tf.io.write_file(path, tf.io.encode_jpeg(np.zeros([8, 8, 3], np.uint8)))
    model = photo_model()
    model.compile("sgd", "mse")

    def load(paths: list[str]) -> Any:
        return np.zeros([len(paths), 224, 224, 3], np.float32)

    return {"paths": [path] * 64, "labels": np.ones([64, 1]), "load": load, "model": model}


def of_photos_on_workers() -> Names:
    with strategy().scope():
        model = photo_model()
        model.compile(sgd(), "mse")
    return {"model": model}


def of_text() -> Names:
    layers = [keras.layers.Embedding(8, 2), keras.layers.Flatten(), keras.layers.Dense(1)]
    vectorize = keras.layers.TextVectorization(output_sequence_length=200, vocabulary=WORDS)
    return {"classify": keras.Sequential(layers), "vectorize": vectorize, "dataset": texts()}


def within_scope(given: Callable[[], Names]) -> Callable[[], Names]:
    def made() -> Names:
        with strategy().scope():
            return given()

    return made


def of_records() -> Names:
    """Return what decodes images in TFRecord files, of which there is one for each worker."""
    image = np.zeros([28, 28, 1], np.float32).tobytes()
    for worker in range(4):
        with tf.io.TFRecordWriter(f"images-{worker}.tfrecord") as file:
            for _ in range(64):
                file.write(image)

    def decode(record: Any) -> Any:
        image = tf.reshape(tf.io.decode_raw(record, tf.float32), [28, 28, 1])
        return image, tf.constant(1, tf.int64)

    return {"decode": decode, "model": classifier()}


def of_minimize() -> Names:
    with strategy().scope():
        return {"model": dense(keras.Input((8,))), "optimizer": sgd(), "dataset": pairs()}


def of_the_paper() -> Names:
    """Replace the records by those of as many workers as the paper's numbers are for."""
    shutil.rmtree("logs")
    policy = BackupPolicy(50, 3)
    timeline = simulated_timeline(Exponential(1.0, 0.3), policy, updates=30)
    settings = dataclasses.replace(timeline.settings, session="paper")
    parquet.Writer("logs", settings).write(timeline.contributions, timeline.updates)
    return {}


GIVEN: dict[str, Callable[[], Names]] = {
    "README.md 1": lambda: {"dataset": batches()},
    "docs/cluster.md 2": lambda: {"dataset": batches(), "model": classifier()},
    f"{GUIDE} 1": of_arrays,
    f"{GUIDE} 2": untrained,
    f"{GUIDE} 3": within_scope(untrained),
    f"{GUIDE} 6": of_photos,
    f"{GUIDE} 7": of_photos_on_workers,
    f"{GUIDE} 8": of_text,
    f"{GUIDE} 9": within_scope(of_text),
    "docs/keras.md 1": of_records,
    "docs/keras.md 2": lambda: {"optimizer": classifier().optimizer},
    "docs/keras.md 3": of_minimize,
    "docs/models.md 1": lambda: {"dataset": examples().take(4)},
    "docs/stragglers.md 1": lambda: {"dataset": batches(), "model": classifier()},
    "docs/stragglers.md 3": of_the_paper,
}


# --- What uses the definitions of a snippet


def read_texts(names: Names) -> None:
    ids, _ = next(iter(names["dataset"]))
    assert ids.shape == (2, 200)
    assert names["outputs"].shape == (None, 1)


def average_weights(names: Names) -> None:
    with strategy().scope():
        model = Averaged()
        model.compile(sgd(), "mse")
    before = model.average.get_weights()
    model.fit(pairs(), callbacks=[names["Average"]()])
    assert (before[0] != model.average.get_weights()[0]).all()


def record_weights(names: Names) -> None:
    classifier().fit(batches(), callbacks=[names["Record"]()])
    assert list(Path().glob("*.weights.h5"))


USED: dict[str, Callable[[Names], None]] = {
    f"{GUIDE} 9": read_texts,
    f"{GUIDE} 11": average_weights,
    "docs/keras.md 2": record_weights,
}


def run(name: str, names: Names) -> str:
    """Run a snippet, and return the traceback of its error."""
    path = Path(f"{name.replace('/', '-')}.py").absolute()
    path.write_text(SNIPPETS[name], "utf-8")  # TensorFlow and tracebacks read the source.
    try:
        names |= GIVEN[name]() if name in GIVEN else {}
        exec(compile(SNIPPETS[name], str(path), "exec"), names)
        if name in USED:
            USED[name](names)
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> None:
    os.chdir(sys.argv[1])
    errors = {}
    todo = [name for name in SNIPPETS if name not in ELSEWHERE]
    todo.sort(key=lambda name: not name.startswith(LOCAL))
    for _, page in itertools.groupby(todo, key=lambda name: name.partition(" ")[0]):
        names: Names = {"__name__": "__main__"}
        for name in page:
            errors[name] = run(name, names)
            print(name, errors[name], file=sys.stderr, flush=True)
    Path("errors.json").write_text(json.dumps(errors), "utf-8")


if __name__ == "__main__":
    main()
