"""Data sets that workers can share: each worker reads its own shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from models.data.vocabulary import Vocabulary

Prepare = Callable[..., Any]


class Source(Protocol):
    """Source of examples.

    Examples are ([height, width, channels] float32 in [0, 1], [] int64), or ([steps + 1] int32,).
    """

    @property
    def parallel(self) -> int:
        """Number of examples that a pipeline prepares at a time."""

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        """Return the training examples of a shard, endlessly, in a new order in each pass."""

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        """Return a shard of a held-out split, in order."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set of images and labels, or of windows of text.

    Each `tf.data.Dataset` is created on demand: TensorFlow must connect to a cluster before it
    creates functions, and a data set with a `map` has one. Data sets of files hold the files' names
    instead of their content: workers must find the files under the same names.

    Attributes:
      name: name for `load`.
      shape: height, width and channels of an image; (steps,) for text.
      classes: number of labels; for text, of tokens in the vocabulary.
      examples: number of training examples: images, or windows of text in one pass. For lm1b, an
        estimate from the sentences that its vocabulary was counted in.
      splits: names of the held-out splits; `held_out` reads the first by default.
      source: source of the examples.
      vocabulary: vocabulary of text; None for images.
      characters_per_word: average in the training text, including white space; None for images.
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
        """Return endless batches of a shard, always full.

        The same arguments give the same batches. In one pass, shards are disjoint and together hold
        all examples; the next pass has another order.

        Args:
          batch_size: number of examples in a batch.
          seed: seed of the orders and of random crops; 0 or more.
          shards: number of shards.
          index: index of the shard.
          prepare: a model's `prepare`, from (image, label) or (window,) to an element for `fit`.

        Raises:
          ValueError: if there is no such shard, or if it has no examples.
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
        """Return the batches of a split once, in order; the last one may be smaller.

        Args:
          batch_size: number of examples in a batch.
          split: one of `splits`; None for the first.
          shards: number of shards; together they hold each example once.
          index: index of the shard.
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
            # Many processes share a machine, and each would start a thread per core.
            options.threading.private_threadpool_size = max(2, self.source.parallel)
            options.autotune.enabled = False
        return batches.prefetch(2).with_options(options)


def _check_shard(name: str, shards: int, index: int) -> None:
    if not 0 <= index < shards:
        raise ValueError(f"there is no shard {index} of {shards} of {name}: they count from 0.")
