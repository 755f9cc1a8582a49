"""A data set in a form that workers can share: each reads a shard of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from models.data.vocabulary import Vocabulary

Prepare = Callable[..., Any]


class Source(Protocol):
    """Where examples come from.

    They are ([height, width, channels] float32 in [0, 1], [] int64), or ([steps + 1] int32,).
    """

    @property
    def parallel(self) -> int:
        """Examples to prepare at a time, of those that a pipeline reads."""

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        """Returns the training examples of a shard, without end, in a new order in each pass."""

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        """Returns a shard of a split that is held out, in order."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set of images and labels, or of windows of text.

    The data sets of TensorFlow are made when they are asked for: it wants a cluster to be connected
    before functions, and a data set that maps has one. They hold file names, not what is in the
    files: workers that are to read them must find the files under the same names.

    Attributes:
      name: what `load` knows it by.
      shape: height, width and channels of an image; (steps,) of text.
      classes: number of labels; of text, tokens in the vocabulary.
      examples: number of training examples: images, or windows of text in one pass. For lm1b an
        estimate from the sentences that its vocabulary was counted in.
      splits: names of those that are held out; the first is what `held_out` reads.
      source: where examples come from.
      vocabulary: None of images.
      characters_per_word: of the training text, white space included; None of images.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    examples: int
    splits: tuple[str, ...]
    source: Source
    vocabulary: Vocabulary | None = None
    characters_per_word: float | None = None

    @property
    def is_text(self) -> bool:
        """Whether examples are windows of text."""
        return self.vocabulary is not None

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        shards: int = 1,
        index: int = 0,
        prepare: Prepare | None = None,
    ) -> tf.data.Dataset:
        """Returns endless batches of a shard, always full.

        With the same arguments they are the same batches. In one pass no two shards have an example
        in common, and together they have all; the next pass has another order.

        Args:
          batch_size: examples in a batch.
          seed: of the orders and of random crops; 0 or more.
          shards: how many shards there are.
          index: which one this is.
          prepare: a model's, from one example, (image, label) or (window,), to what it is given.

        Raises:
          ValueError: if there is no such shard, or if it has no example.
        """
        _check_shard(self.name, shards, index)
        examples = self.source.train(seed, shards, index)
        batches = self._prepared(examples, prepare).batch(batch_size, drop_remainder=True)
        return self._finished(batches)

    def held_out(
        self,
        batch_size: int,
        *,
        split: str | None = None,
        shards: int = 1,
        index: int = 0,
        prepare: Prepare | None = None,
    ) -> tf.data.Dataset:
        """Returns the batches of a split once, in order; the last one may be smaller.

        Args:
          batch_size: examples in a batch.
          split: one of `splits`; None for the first.
          shards: how many shards there are; together they have each example once.
          index: which one this is.
          prepare: as for `batches`.

        Raises:
          ValueError: if there is no such split or shard.
        """
        split = split or self.splits[0]
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}, only {', '.join(self.splits)}.")
        _check_shard(self.name, shards, index)
        examples = self.source.held_out(split, shards, index)
        return self._finished(self._prepared(examples, prepare).batch(batch_size))

    def _prepared(self, examples: tf.data.Dataset, prepare: Prepare | None) -> tf.data.Dataset:
        if prepare is None:
            return examples
        return examples.map(prepare, num_parallel_calls=self.source.parallel)

    def _finished(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        options = tf.data.Options()
        if self.source.parallel != tf.data.AUTOTUNE:
            # Many processes share a machine: each would have a thread for every core.
            options.threading.private_threadpool_size = max(2, self.source.parallel)
            options.autotune.enabled = False
        return batches.prefetch(2).with_options(options)


def _check_shard(name: str, shards: int, index: int) -> None:
    if not 0 <= index < shards:
        raise ValueError(f"there is no shard {index} of {shards} of {name}: they count from 0.")
