"""Handling of records that cannot be decoded: an error that names them, or a warning."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.data.stored import Record, Records
from models.tensor import Tensor

MANY = 16  # Size from which a chunk with corrupt records only is an error.


def decoded(
    chunks: tf.data.Dataset,
    decode: Callable[[Any], Any],
    records: Records,
    on_corrupt: str,
    parallel: int,
) -> tf.data.Dataset:
    """Return chunks of records with their data decoded.

    Each chunk becomes a temporary data set, from which TensorFlow drops the records that cannot be
    decoded; the missing ones are corrupt. A data set for every record would take twice the time.

    Args:
      chunks: chunks of `Record`.
      decode: function from a record's data to tensors of static shape.
      records: the records that the chunks were read from, for their names.
      on_corrupt: "fail" to raise an error (`tf.errors.InvalidArgumentError`, when the chunk is
        read) that names the data set, the split and the record as tensorflow-datasets' `tfds_id`
        does; "skip" to leave the record out and name it on standard error of the process that
        reads it, once in each pipeline. A chunk of `MANY` or more records that are all corrupt is
        always an error.
      parallel: number of chunks to decode at a time.
    """
    report = {"fail": _fail, "skip": _warn}[on_corrupt]

    def decode_chunk(chunk: Record) -> Record:
        places, data = _what_can_be(decode, chunk)
        count = tf.size(chunk.file)
        good = tf.reduce_any(tf.range(count)[:, None] == places[None, :], axis=1)
        report(records, Record(None, *(tf.boolean_mask(part, ~good) for part in chunk[1:])), count)
        return Record(data, *(tf.gather(part, places) for part in chunk[1:]))

    return chunks.map(decode_chunk, num_parallel_calls=parallel, deterministic=True)


def _what_can_be(decode: Callable[[Any], Any], chunk: Record) -> tuple[Tensor, Any]:
    """Return the indices, [n] int32, and the decoded data of a chunk's valid records."""
    count = tf.size(chunk.file)
    single = tf.data.Dataset.from_tensor_slices((tf.range(count), chunk.data))
    single = single.map(lambda place, data: (place, decode(data))).ignore_errors()
    # The blank element ensures that there is a batch even if no record is valid.
    blank = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), single.element_spec)
    single = single.concatenate(tf.data.Dataset.from_tensors(blank))
    batch = single.batch(tf.cast(count + 1, tf.int64)).get_single_element()
    places, decoded = tf.nest.map_structure(lambda tensor: tensor[:-1], batch)
    return places, decoded


def _names(records: Records, bad: Record) -> Tensor:
    """Return the names of records, joined to one [] string."""
    files = tf.gather([path.rsplit("/", 1)[-1] for path in records.paths], bad.file)
    names = tf.strings.join([files, tf.strings.as_string(bad.number)], "__")
    return tf.strings.reduce_join(names, separator=", ")


def _fail(records: Records, bad: Record, count: Tensor) -> None:
    del count
    message = tf.strings.join(
        [
            f"{records.split}: corrupt, cannot be decoded: ",
            _names(records, bad),
            ". Get the data set again, or leave such records out with --on_corrupt=skip.",
        ]
    )
    tf.debugging.Assert(tf.equal(tf.size(bad.file), 0), [message])


def _warn(records: Records, bad: Record, count: Tensor) -> None:
    all_bad = tf.logical_and(tf.equal(tf.size(bad.file), count), count >= MANY)
    message = f"{records.split}: {MANY} or more records in a row are corrupt, too many to skip: "
    tf.debugging.Assert(~all_bad, [tf.strings.join([message, _names(records, bad)])])
    new = bad.turn < len(records)
    fresh = Record(None, *(tf.boolean_mask(part, new) for part in bad[1:]))

    def tell() -> Any:
        message = f"WARNING: {records.split}: corrupt, left out: "
        return tf.print(
            tf.strings.join([message, _names(records, fresh)]), output_stream=sys.stderr
        )

    tf.cond(tf.size(fresh.file) > 0, lambda: tf.group(tell()), tf.no_op)
