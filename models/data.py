"""Image data sets, in a form that workers can share: each reads a shard of its own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set of images and labels.

    Attributes:
      shape: height, width and channels of an image.
      classes: number of classes.
      examples: number of training examples.
      train: returns shard `index` of `shards` of the training examples, unbatched, in the order
        in which they are stored: ([height, width, channels] float32 in [0, 1], [] int64).
      validation: returns the held-out examples, unbatched.

    The data sets are made when they are asked for: TensorFlow wants a cluster to be connected
    before functions, and a data set that maps has one.
    """

    shape: tuple[int, int, int]
    classes: int
    examples: int
    train: Callable[[int, int], tf.data.Dataset]
    validation: Callable[[], tf.data.Dataset]

    def batches(self, batch_size: int, seed: int, shards: int = 1, index: int = 0) -> Any:
        """Returns endless shuffled batches of a shard, always full.

        Args:
          batch_size: examples in a batch.
          seed: of the shuffles; every pass over the shard has another order.
          shards: how many shards there are.
          index: which one this is.
        """
        shard = -(-self.examples // shards)
        return (
            self.train(shards, index)
            .cache()
            .shuffle(min(shard, 5_000), seed=seed * 1000 + index)
            .repeat()
            .batch(batch_size, drop_remainder=True)
            .prefetch(2)
        )


def load(name: str, data_dir: str | None = None) -> Data:
    """Returns a data set by name.

    Args:
      name: one of `NAMES`.
      data_dir: where tensorflow-datasets keeps its data sets; None for its own default.

    Raises:
      ValueError: if there is no such data set.
      FileNotFoundError: if the data set has not been prepared, saying how to get it.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown dataset {name!r}; the known ones are {', '.join(NAMES)}.")
    return _LOADERS[name](data_dir)


def _digits(data_dir: str | None) -> Data:
    """1,797 scanned digits of 8 x 8 pixels, part of scikit-learn; every fifth is held out."""
    del data_dir
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    held_out = np.arange(len(labels)) % 5 == 4

    def read(mask: np.ndarray[Any, Any]) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((images[mask], labels[mask]))

    return Data(
        shape=(8, 8, 1),
        classes=10,
        examples=int(np.sum(~held_out)),
        train=lambda shards, index: read(~held_out).shard(shards, index),
        validation=lambda: read(held_out),
    )


def _mnist(data_dir: str | None) -> Data:
    """70,000 handwritten digits of 28 x 28 pixels, from tensorflow-datasets."""
    builder = _builder("mnist", data_dir)

    def read(split: str) -> tf.data.Dataset:
        # Without the time that tensorflow-datasets otherwise takes to order parallel reads.
        dataset = builder.as_dataset(split=split, as_supervised=True)
        return dataset.map(_scaled, num_parallel_calls=1)

    return Data(
        shape=(28, 28, 1),
        classes=10,
        examples=builder.info.splits["train"].num_examples,
        train=lambda shards, index: read("train").shard(shards, index),
        validation=lambda: read("test"),
    )


def _scaled(image: Any, label: Any) -> tuple[Any, Any]:
    return tf.cast(image, tf.float32) / 255.0, label


def _builder(name: str, data_dir: str | None) -> Any:
    """Returns tensorflow-datasets' builder of a data set that has been prepared already."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    if not os.path.isdir(builder.data_dir):
        where = f", data_dir={data_dir!r}" if data_dir else ""
        raise FileNotFoundError(
            f"data set {name!r} is not at {builder.data_dir}. Get it, on a machine with a "
            f'network, with: python -c "import tensorflow_datasets as tfds; '
            f'tfds.load({name!r}{where})"'
        )
    return builder


_LOADERS: dict[str, Callable[[str | None], Data]] = {"digits": _digits, "mnist": _mnist}
NAMES = tuple(_LOADERS)
