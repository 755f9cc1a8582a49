"""Windows of a text that fits into memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from models.data.dataset import Data
from models.data.prepared import builder
from models.data.stored import Records
from models.data.vocabulary import Vocabulary, characters_per_word
from models.tensor import Tensor

WORDS = 10_000


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of steps + 1 tokens, each beginning with the last token of the previous one.

    Tokens at the end of a text that are too few for a window are dropped. In training, every pass
    starts at a random one of the first `steps` tokens, so it may have one window less.

    Attributes:
      tokens: tokens of each split, [tokens] int32; sent to the workers.
      steps: number of tokens in a window, without the last one.
    """

    tokens: dict[str, np.ndarray[Any, Any]]
    steps: int
    parallel = 1

    def count(self, split: str) -> int:
        """Return the number of windows in a split."""
        return (len(self.tokens[split]) - 1) // self.steps

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        """Return the windows of a shard, endlessly, in a new order in each pass."""
        end = len(self.tokens["train"]) - self.steps
        if self.count("train") <= shards:
            raise ValueError(
                f"the text has {self.count('train')} windows of {self.steps} tokens, too few for "
                f"{shards} shards. Take fewer shards or steps."
            )

        def one_pass(number: Tensor) -> tf.data.Dataset:
            key = [seed, number]
            offset = tf.random.stateless_uniform([], key, 0, self.steps, tf.int64)
            starts = tf.range(offset, end, self.steps, dtype=tf.int64)
            # Not `Dataset.shuffle`, whose order also depends on TensorFlow's global seed.
            starts = tf.random.experimental.stateless_shuffle(starts, key)
            return tf.data.Dataset.from_tensor_slices(starts[index::shards])

        return self._windows("train", tf.data.Dataset.counter().flat_map(one_pass))

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        """Return a shard of a split's windows, in order."""
        end = len(self.tokens[split]) - self.steps
        starts = np.arange(0, end, self.steps)[index::shards]
        return self._windows(split, tf.data.Dataset.from_tensor_slices(starts))

    def _windows(self, split: str, starts: tf.data.Dataset) -> tf.data.Dataset:
        tokens, size = self.tokens[split], self.steps + 1
        return starts.map(lambda start: (tf.slice(tokens, start[tf.newaxis], [size]),))


def topics(steps: int, of_words: bool, size: int | None) -> Data:
    """Return Python's help texts, 0.7 MB; the last tenth of them is held out."""
    from pydoc_data.topics import topics as texts

    names = sorted(texts)
    cut = len(names) * 9 // 10
    parts = {"train": names[:cut], "validation": names[cut:]}
    whole = {split: "\n".join(texts[name] for name in part) for split, part in parts.items()}
    return _windows("topics", whole, steps, of_words, size)


def tiny_shakespeare(
    data_dir: str | None, download: bool, steps: int, of_words: bool, size: int | None
) -> Data:
    """Return 1.1 MB of Shakespeare's plays, from tensorflow-datasets."""
    info = builder("tiny_shakespeare", data_dir, download)
    texts = {split: _text(Records.of_split(info, split)) for split in info.info.splits}
    return _windows("tiny_shakespeare", texts, steps, of_words, size)


def _text(records: Records) -> str:
    """Return the text of all records, read without a TensorFlow function."""
    found = []
    for path in records.paths:
        try:
            found += [record.numpy() for record in tf.data.TFRecordDataset(path)]
        except tf.errors.OpError as error:
            raise ValueError(
                f"{records.split}: file {path} cannot be read: "
                f"{error.message.split('}} ', 1)[-1]}. Delete it and get the data set again."
            ) from None
    examples = [tf.train.Example.FromString(record) for record in found]
    return "".join(e.features.feature["text"].bytes_list.value[0].decode() for e in examples)


def _windows(
    name: str, texts: dict[str, str], steps: int, of_words: bool, size: int | None
) -> Data:
    train = texts["train"]
    vocabulary = (
        Vocabulary.words(train, size or WORDS) if of_words else Vocabulary.characters(train)
    )
    tokens = {split: vocabulary.encode(text) for split, text in texts.items()}
    shortest = min(tokens, key=lambda split: len(tokens[split]))
    if not 1 <= steps < len(tokens[shortest]):
        raise ValueError(
            f"steps is {steps}; it must be at least 1 and, for a window of {name}, split "
            f"{shortest!r}, below its {len(tokens[shortest])} tokens."
        )
    source = Windows(tokens, steps)
    return Data(
        name,
        (steps,),
        len(vocabulary),
        source.count("train"),
        tuple(split for split in ("validation", "test") if split in texts),
        source,
        vocabulary,
        characters_per_word(train),
    )
