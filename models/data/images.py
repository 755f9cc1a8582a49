"""Small images and their labels, as stored in their files."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from models.data import corrupt
from models.data.dataset import Data
from models.data.prepared import builder
from models.data.stored import Records
from models.tensor import Tensor


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images and labels in memory; there must be few, as they are sent to the workers."""

    splits: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
    parallel = 1

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        """Return the training examples of a shard, endlessly, in a new order in each pass."""
        images, labels = self.splits["train"]
        if len(labels) < shards:
            raise ValueError(
                f"there are {len(labels)} examples, too few for {shards} shards. Take fewer shards."
            )

        def one_pass(number: Tensor) -> tf.data.Dataset:
            # Not `Dataset.shuffle`, whose order also depends on TensorFlow's global seed.
            order = tf.range(len(labels))
            order = tf.random.experimental.stateless_shuffle(order, [seed, number])
            return tf.data.Dataset.from_tensor_slices(order[index::shards])

        passes = tf.data.Dataset.counter().flat_map(one_pass)
        return passes.map(lambda place: (tf.gather(images, place), tf.gather(labels, place)))

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        """Return a shard of a split, in order."""
        images, labels = self.splits[split]
        return tf.data.Dataset.from_tensor_slices((images[index::shards], labels[index::shards]))


@dataclasses.dataclass(frozen=True)
class Files:
    """Images in files of tensorflow-datasets.

    Attributes:
      splits: the records of each split.
      features: features of tensorflow-datasets, which decode a record.
      buffer: number of records in a shuffle buffer.
      keep: whether to cache a shard's records in memory, before they are decoded.
      on_corrupt: see `corrupt.decoded`.
      parallel: number of chunks to decode at a time.
    """

    splits: dict[str, Records]
    features: Any
    buffer: int
    keep: bool
    on_corrupt: str
    parallel: int = 2

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        """Return the training examples of a shard, endlessly, in a new order in each pass."""
        records = self.splits["train"].shard(shards, index)
        chunks = records.shuffled(seed, self.buffer, self.keep, self.parallel)
        return self._examples(records, chunks)

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        """Return a shard of a split, in order."""
        records = self.splits[split].shard(shards, index, may_be_empty=True)
        return self._examples(records, records.once(self.parallel))

    def _examples(self, records: Records, chunks: tf.data.Dataset) -> tf.data.Dataset:
        def decode(record: Tensor) -> tuple[Tensor, Tensor]:
            example = self.features.deserialize_example(record)
            shape = self.features["image"].shape
            return tf.ensure_shape(example["image"], shape), example["label"]

        chunks = corrupt.decoded(chunks, decode, records, self.on_corrupt, self.parallel)
        chunks = chunks.map(lambda chunk: (tf.cast(chunk.data[0], tf.float32) / 255, chunk.data[1]))
        return chunks.unbatch()


def digits() -> Data:
    """Return scikit-learn's 1,797 scanned digits of 8 x 8 pixels; every fifth is held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / 16.0).astype(np.float32)[..., np.newaxis]
    labels = found.target.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    splits = {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}
    source = Arrays(splits)
    return Data("digits", (8, 8, 1), 10, int(np.sum(~test)), ("test",), source)


def from_files(name: str, data_dir: str | None, download: bool, on_corrupt: str) -> Data:
    """Return a data set of small images that tensorflow-datasets prepares."""
    info = builder(name, data_dir, download)
    splits = {split: Records.of_split(info, split) for split in info.info.splits}
    small = name in ("mnist", "cifar10")
    return Data(
        name,
        info.info.features["image"].shape,
        info.info.features["label"].num_classes,
        len(splits["train"]),
        tuple(split for split in ("validation", "test") if split in splits),
        Files(splits, info.info.features, 100_000 if small else 10_000, small, on_corrupt),
    )
