"""The door to Keras' internals: what `fit` and `evaluate` are given, as data sets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras.src import tree
from keras.src.trainers import data_adapters

Tensor = Any

_LARGEST_ARRAYS = 2**31 - 2**24  # Bytes; a serialized graph has less than 2 GiB.


class Source(NamedTuple):
    """A data set of batches, and how many there are (None if that is not known)."""

    dataset: Any
    batches: int | None


def source(**data: Any) -> Source:
    """Returns what `fit` or `evaluate` was given, as a data set.

    Raises:
      TypeError: if it lives in this process alone, as a generator does.
    """
    # Keras shuffles arrays only, and warns at length that it does not shuffle what is none.
    adapter = data_adapters.get_data_adapter(**{**data, "shuffle": False})
    if isinstance(adapter, data_adapters.ArrayDataAdapter):
        adapter = data_adapters.get_data_adapter(**data)
    movable = (data_adapters.ArrayDataAdapter, data_adapters.TFDatasetAdapter)
    if not isinstance(adapter, movable):
        raise TypeError(
            f"x is {type(data.get('x')).__name__}, which runs in this process and cannot be sent "
            "to the workers. Give arrays, a tf.data.Dataset, or a function from "
            "tf.distribute.InputContext to a tf.data.Dataset."
        )
    if isinstance(adapter, data_adapters.ArrayDataAdapter):
        _check_size(adapter._inputs)
        if adapter._shuffle:
            return Source(_shuffled(adapter), adapter.num_batches)
    return Source(adapter.get_tf_dataset(), adapter.num_batches)


def _check_size(arrays: Any) -> None:
    """Refuses arrays that no message can hold."""
    size = sum(getattr(array, "nbytes", 0) for array in tree.flatten(arrays))
    if size > _LARGEST_ARRAYS:
        raise ValueError(
            f"the arrays have {size / 2**30:.1f} GiB, but no more than "
            f"{_LARGEST_ARRAYS / 2**30:.1f} GiB can be sent to the workers. Let the workers read "
            "files: give a tf.data.Dataset of files, or a function from "
            "tf.distribute.InputContext to one."
        )


def _shuffled(adapter: Any) -> Any:
    """Returns batches of an array adapter's samples, in a new order in every pass.

    Keras' own data set shuffles in a `map`, where every worker would draw another order.
    """
    arrays = tree.lists_to_tuples(adapter._inputs)
    if not all(isinstance(array, np.ndarray | tf.Tensor) for array in tree.flatten(arrays)):
        return adapter.get_tf_dataset()  # Sparse, say.
    samples, size = adapter._num_samples, adapter._batch_size
    if not samples:
        raise ValueError("x has no samples; give at least one.")
    indices = tf.data.Dataset.range(samples)
    if adapter._shuffle == "batch":
        indices = indices.batch(size).shuffle(-(-samples // size))
    else:
        indices = indices.shuffle(samples).batch(size)

    def take(index: Tensor, whole: Any) -> Any:
        return tree.map_structure(lambda array: tf.gather(array, index), whole)

    everything = tf.data.Dataset.from_tensors(arrays).repeat()
    return tf.data.Dataset.zip((indices, everything)).map(take, num_parallel_calls=1)
