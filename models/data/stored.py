"""Records of a data set prepared by tensorflow-datasets, before they are decoded.

Read without tensorflow-datasets' own reader, which shards whole files only, and whose errors name
neither a damaged file nor a record that cannot be decoded.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models.tensor import Tensor

CHUNK = 64


class Record(NamedTuple):
    """A record, or a chunk of records with one more dimension.

    Attributes:
      data: [] string, or the decoded data.
      file: index of its file, [] int64.
      number: its position in the file, [] int64.
      turn: number of records of the shard before it, over all passes, [] int64.
    """

    data: Any
    file: Tensor
    number: Tensor
    turn: Tensor


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a split, or of a shard of it.

    Attributes:
      split: name of the data set and the split, for messages.
      paths: paths of the TFRecord files.
      lengths: number of records in each file.
      stride: (shards, index) of a shard of single records; (1, 0) for all records of the files.
    """

    split: str
    paths: tuple[str, ...]
    lengths: tuple[int, ...]
    stride: tuple[int, int] = (1, 0)

    @classmethod
    def of_split(cls, builder: Any, split: str) -> Records:
        """Return the records of a split of a prepared data set.

        Raises:
          ValueError: if they are not in TFRecord files.
        """
        info = builder.info.splits[split]
        kind = getattr(builder.info.file_format, "value", None)
        if kind not in (None, "tfrecord"):
            raise ValueError(
                f"{builder.info.full_name} at {builder.data_dir} is in files of {kind}, but only "
                "tfrecord files are read. Prepare it with tensorflow-datasets' default."
            )
        name = f"{builder.info.full_name}, split {split}"
        files = [
            (os.fspath(path), int(length))
            for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
            if length
        ]
        return cls(name, *zip(*files, strict=True))

    def __len__(self) -> int:
        shards, index = self.stride
        return len(range(index, sum(self.lengths), shards))

    def shard(self, shards: int, index: int, may_be_empty: bool = False) -> Records:
        """Return a shard: whole files if there are enough, otherwise every `shards`-th record.

        Raises:
          ValueError: if the shard is empty, unless `may_be_empty` is set.
        """
        if len(self.paths) >= shards:
            mine = slice(index, None, shards)
            return dataclasses.replace(self, paths=self.paths[mine], lengths=self.lengths[mine])
        part = dataclasses.replace(self, stride=(shards, index))
        if not len(part) and not may_be_empty:
            raise ValueError(
                f"{self.split} has {sum(self.lengths)} examples, too few for {shards} shards: "
                f"shard {index} would be empty. Take fewer shards."
            )
        return part

    def once(self, parallel: int = 1) -> tf.data.Dataset:
        """Return the records once, in order, in chunks of `Record`."""
        return self._chunks(self._read(self._files(), 1, parallel))

    def shuffled(self, seed: int, buffer: int, keep: bool, parallel: int = 1) -> tf.data.Dataset:
        """Return the records endlessly, in a new order in each pass, in chunks of `Record`.

        Args:
          seed: seed of the orders.
          buffer: number of records in the shuffle buffer.
          keep: whether to cache all records in memory.
          parallel: number of files to read at a time.
        """
        seed = int(np.random.default_rng([seed, self.stride[1]]).integers(2**31))
        files = self._files()
        if keep:
            records = self._read(files, 1, parallel).cache()
        else:
            files = files.shuffle(len(self.paths), seed=seed)
            records = self._read(files, 16, parallel)
        buffer = min(buffer, len(self))
        return self._chunks(records.shuffle(buffer, seed=seed).repeat())

    def _files(self) -> tf.data.Dataset:
        numbers = np.arange(len(self.paths))
        lengths = np.array(self.lengths, np.int64)
        shards, index = self.stride
        # Position of the shard's first record in each file, whatever the order of reading files.
        first = (index - np.cumsum([0, *lengths[:-1]])) % shards
        return tf.data.Dataset.from_tensor_slices((list(self.paths), lengths, numbers, first))

    def _read(self, files: tf.data.Dataset, cycle: int, parallel: int) -> tf.data.Dataset:
        """Return the records, [] string, with the index of their file and their position in it."""
        shards, _ = self.stride

        def read(path: Tensor, length: Tensor, file: Tensor, first: Tensor) -> tf.data.Dataset:
            records = _read_file(path, length, file)
            return records.shard(shards, first) if shards > 1 else records

        if cycle == 1:
            return files.flat_map(read)
        cycle = min(cycle, len(self.paths))
        if parallel != tf.data.AUTOTUNE:
            parallel = min(parallel, cycle)
        return files.interleave(read, cycle, 16, parallel, deterministic=True)

    def _chunks(self, records: tf.data.Dataset) -> tf.data.Dataset:
        paths = list(self.paths)

        def chunk(first: Tensor, parts: tuple[Tensor, Tensor, Tensor]) -> Record:
            data, file, number = parts
            lost = tf.reshape(tf.where(tf.equal(data, "")), [-1])[:1]
            message = tf.strings.join(
                [
                    f"{self.split}: file ",
                    tf.strings.reduce_join(tf.gather(paths, tf.gather(file, lost))),
                    " is damaged or truncated: record ",
                    tf.strings.reduce_join(tf.strings.as_string(tf.gather(number, lost))),
                    " and all after it cannot be read. Delete it and get the data set again.",
                ]
            )
            tf.debugging.Assert(tf.equal(tf.size(lost), 0), [message])
            turn = first * CHUNK + tf.range(tf.size(data, tf.int64), dtype=tf.int64)
            return Record(data, file, number, turn)

        return records.batch(CHUNK).enumerate().map(chunk)


def _read_file(path: Tensor, length: Tensor, file: Tensor) -> tf.data.Dataset:
    """Return a file's records; if it ends early, then an empty one, which is never valid."""
    # TensorFlow's error for damaged records does not name the file. Its error for files that cannot
    # be opened does, and `ignore_errors` would retry opening them forever.
    opened = tf.data.FixedLengthRecordDataset(path, record_bytes=1).take(1)
    found = opened.flat_map(lambda _: tf.data.TFRecordDataset(path).ignore_errors())
    found = found.concatenate(tf.data.Dataset.from_tensors(""))
    files = tf.data.Dataset.from_tensors(file).repeat()
    return tf.data.Dataset.zip((found, files, tf.data.Dataset.range(length)))
