"""Sentences that do not fit into memory, as one stream of tokens split into windows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from models.data import corrupt
from models.data.dataset import Data
from models.data.prepared import builder
from models.data.stored import Records
from models.data.vocabulary import END_OF_LINE, Vocabulary
from models.tensor import Tensor

COUNTED = 1_000_000
"""Number of training sentences, from the first, in which vocabularies are counted."""
WORDS = 100_000
BUFFER = 10_000  # Sentences in a shuffle buffer.
SPACES = r"[\x{09}-\x{0d}\x{1c}-\x{20}\x{85}\p{Z}]+"  # White space as in Python's `split`.


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Windows of steps + 1 tokens from consecutive sentences.

    Each window begins with the last token of the previous one. Tokens at the end of a shard that
    are too few for a window are dropped.

    Attributes:
      splits: the records of each split, one sentence in each.
      vocabulary: vocabulary of the tokens.
      steps: number of tokens in a window, without the last one.
      on_corrupt: see `corrupt.decoded`.
    """

    splits: dict[str, Records]
    vocabulary: Vocabulary
    steps: int
    on_corrupt: str
    parallel = 2

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        """Return the windows of a shard of the training sentences, endlessly."""
        records = self.splits["train"].shard(shards, index)
        chunks = records.shuffled(seed, BUFFER, False, self.parallel)
        return self._windows(records, chunks)

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        """Return the windows of a shard of a split's sentences, in order."""
        records = self.splits[split].shard(shards, index, may_be_empty=True)
        return self._windows(records, records.once(self.parallel))

    def _windows(self, records: Records, chunks: tf.data.Dataset) -> tf.data.Dataset:
        def parse(record: Tensor) -> Tensor:
            feature = tf.io.FixedLenFeature([], tf.string)
            return tf.io.parse_single_example(record, {"text": feature})["text"]

        encode = encoder(self.vocabulary)
        chunks = corrupt.decoded(chunks, parse, records, self.on_corrupt, self.parallel)
        tokens = chunks.map(lambda chunk: encode(chunk.data), num_parallel_calls=self.parallel)
        return tokens.scan(tf.zeros([0], tf.int32), self._cut).unbatch()

    def _cut(self, rest: Tensor, tokens: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        """Return the tokens that are left over, and windows, [n, steps + 1], of the others."""
        tokens = tf.concat([rest, tokens], axis=0)
        count = tf.maximum(0, (tf.size(tokens) - 1) // self.steps)
        starts = tf.range(count) * self.steps
        windows = tf.gather(tokens, starts[:, None] + tf.range(self.steps + 1)[None, :])
        return tokens[count * self.steps :], (windows,)


def encoder(vocabulary: Vocabulary) -> Any:
    """Return a function from sentences, [n] string, to the ids of all tokens, [tokens] int32.

    The ids are those of `Vocabulary.encode`. The function uses constants instead of a lookup table,
    which could not be sent to another process with a data set.
    """
    return _words(vocabulary) if vocabulary.of_words else _characters(vocabulary)


def _words(vocabulary: Vocabulary) -> Any:
    def key(words: Any) -> Tensor:
        return tf.strings.to_hash_bucket_fast(words, 2**63 - 1)

    keys = key(list(vocabulary.tokens)).numpy()
    order = np.argsort(keys)
    keys, ids = keys[order], order.astype(np.int32)

    def encode(sentences: Tensor) -> Tensor:
        text = tf.strings.regex_replace(sentences, SPACES, " ")
        lines = tf.strings.join([text, f" {END_OF_LINE}"])
        wanted = key(tf.strings.split(lines).flat_values)
        places = tf.minimum(tf.searchsorted(keys, wanted), len(keys) - 1)
        known = tf.equal(tf.gather(keys, places), wanted)
        return tf.where(known, tf.gather(ids, places), 0)

    return encode


def _characters(vocabulary: Vocabulary) -> Any:
    codes = {ord(token): place for place, token in enumerate(vocabulary.tokens) if place}
    ids = np.zeros(max(codes) + 2, np.int32)  # The last is for all higher codes.
    ids[list(codes)] = list(codes.values())

    def encode(sentences: Tensor) -> Tensor:
        found = tf.strings.unicode_decode(tf.strings.join([sentences, "\n"]), "UTF-8").flat_values
        return tf.gather(ids, tf.minimum(found, len(ids) - 1))

    return encode


@dataclasses.dataclass(frozen=True)
class Counts:
    """Vocabulary and counts of the first training sentences.

    Attributes:
      vocabulary: vocabulary of their tokens.
      sentences: number of sentences.
      tokens: number of tokens, including ends of lines.
      characters_per_word: average, including white space.
    """

    vocabulary: Vocabulary
    sentences: int
    tokens: int
    characters_per_word: float

    @classmethod
    def of_records(cls, records: Records, of_words: bool, size: int | None) -> Counts:
        """Count the first sentences, without a TensorFlow function."""
        counts: collections.Counter[str] = collections.Counter()
        sentences = characters = words = 0
        feature = {"text": tf.io.FixedLenFeature([], tf.string)}
        chunks = tf.data.TFRecordDataset(list(records.paths)).take(COUNTED).batch(1024)
        for chunk in chunks:
            found = tf.io.parse_example(chunk, feature)["text"].numpy()
            text = b"\n".join([*found, b""]).decode()
            parts = text.split()
            counts.update(parts if of_words else text)
            sentences += len(found)
            characters += len(text)
            words += len(parts)
        vocabulary = Vocabulary.counted(counts, of_words, size)
        tokens = words + sentences if of_words else characters
        return cls(vocabulary, sentences, tokens, characters / max(1, words))

    @classmethod
    def of_directory(cls, directory: str, records: Records, of_words: bool, size: int) -> Counts:
        """Read the counts from a file next to the data; if it is missing, count and write it.

        If the file cannot be written, the next process counts again, with the same result.
        """
        kind = f"{size}-words" if of_words else "characters"
        path = os.path.join(directory, f"vocabulary-{kind}-of-{COUNTED}-sentences.json")
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            found = json.load(file)
            return cls(Vocabulary(tuple(found.pop("vocabulary")), of_words), **found)
        counts = cls.of_records(records, of_words, size if of_words else None)
        content = {**vars(counts), "vocabulary": counts.vocabulary.tokens}
        part = f"{path}.{os.getpid()}"
        try:
            with open(part, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(part)
        return counts


def lm1b(
    data_dir: str | None,
    download: bool,
    steps: int,
    of_words: bool,
    size: int | None,
    on_corrupt: str,
) -> Data:
    """Return 30 million sentences of news, from tensorflow-datasets.

    Raises:
      ValueError: if `steps` is less than 1, or `size` leaves no room for a word.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1.")
    info = builder("lm1b", data_dir, download)
    splits = {split: Records.of_split(info, split) for split in info.info.splits}
    train = splits["train"]
    counts = Counts.of_directory(str(info.data_dir), train, of_words, size or WORDS)
    return Data(
        "lm1b",
        (steps,),
        len(counts.vocabulary),
        len(train) * counts.tokens // counts.sentences // steps,
        tuple(split for split in ("validation", "test") if split in splits),
        Sentences(splits, counts.vocabulary, steps, on_corrupt),
        counts.vocabulary,
        counts.characters_per_word,
    )
