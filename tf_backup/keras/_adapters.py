"""The door to Keras' internals: what `fit` and `evaluate` are given, as data sets."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src import tree
from keras.src.backend import config
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_slicing

from tf_backup.actors.python_data import Source

Tensor = Any

_MOVABLE = (data_adapters.ArrayDataAdapter, data_adapters.TFDatasetAdapter)
_OTHERS = ("torch_dataloader", "grain_dataset")
_LARGEST_ARRAYS = 2**31 - 2**24  # Bytes; a serialized graph has less than 2 GiB.


def source(**data: Any) -> Source:
    """Returns what `fit` was given, or arrays or a data set that `evaluate` was, as a data set."""
    if isinstance(data.get("x"), tf.distribute.DistributedDataset):
        raise TypeError(
            "x is a data set that the strategy has distributed already. Give the tf.data.Dataset "
            "itself: tf_backup shares its batches out among the workers."
        )
    # Keras warns at length that it does not shuffle what it cannot.
    adapter = data_adapters.get_data_adapter(**{**data, "shuffle": False})
    kinds = (data_adapters.ArrayDataAdapter, data_adapters.PyDatasetAdapter)
    if isinstance(adapter, kinds) and adapter.num_batches is not None:
        adapter = data_adapters.get_data_adapter(**data)
    if not isinstance(adapter, _MOVABLE):
        return _source_here(adapter, data["x"])
    if isinstance(adapter, data_adapters.ArrayDataAdapter):
        _check_size(adapter)
        if adapter._shuffle and adapter._shuffle != "batch":
            return Source(_shuffled(adapter), adapter.num_batches)
    return Source(adapter.get_tf_dataset(), adapter.num_batches)


def element_spec(iterator: Any) -> Any:
    """Returns the spec of a batch of an epoch iterator: a `Feed`, or Keras' own."""
    own = getattr(iterator, "_distributed_dataset", None)
    return iterator.data.element_spec if own is None else own.element_spec


def is_python(x: Any) -> bool:
    """Returns whether Keras reads data in this process that no other one can read."""
    if isinstance(x, types.GeneratorType | keras.utils.PyDataset):
        return True
    # Of other packages; not every Keras knows them.
    tests = (getattr(data_adapters, f"is_{kind}", None) for kind in _OTHERS)
    return any(test is not None and test(x) for test in tests)


def _source_here(adapter: Any, x: Any) -> Source:
    """Returns the source of data that this process reads; notes what their code raises."""
    errors: list[BaseException] = []

    def noting(generate: Callable[[], Any]) -> Callable[[], Iterator[Any]]:
        def generator() -> Iterator[Any]:
            try:
                yield from generate()
            except Exception as error:
                errors.append(error)
                raise

        return generator

    for name in ("generator", "_get_iterator"):  # Of generators, and of PyDatasets.
        if hasattr(adapter, name):
            setattr(adapter, name, noting(getattr(adapter, name)))
    kind = "PyDataset" if isinstance(x, keras.utils.PyDataset) else type(x).__name__
    return Source(
        adapter.get_tf_dataset(),
        adapter.num_batches,
        isinstance(x, keras.utils.PyDataset) and adapter.num_batches is None,
        f"a {kind}",
        adapter.on_epoch_begin,
        adapter.on_epoch_end,
        errors,
    )


def capped(steps: int | None) -> int | None:
    """Returns the steps of an epoch, no more than `keras.config.set_max_steps_per_epoch` allows."""
    most = config.max_steps_per_epoch()
    if not most or (steps is not None and steps <= most):
        return steps
    warnings.warn(f"Limiting steps_per_epoch to {most}", stacklevel=3)
    return int(most)


def _check_size(adapter: Any) -> None:
    """Refuses arrays that no message can hold, and those without samples."""
    if not adapter._num_samples:
        raise ValueError("x has no samples; give at least one.")
    size = sum(getattr(array, "nbytes", 0) for array in tree.flatten(adapter._inputs))
    if size > _LARGEST_ARRAYS:
        raise ValueError(
            f"the arrays have {size / 2**30:.1f} GiB, but no more than "
            f"{_LARGEST_ARRAYS / 2**30:.1f} GiB can be sent to the workers. Let the workers read "
            "files: give a tf.data.Dataset of files, or a function from "
            "tf.distribute.InputContext to one."
        )


def _shuffled(adapter: Any) -> Any:
    """Returns batches of an array adapter's samples, in a new order in every pass.

    Keras' own data set draws the order in a `map`, where every worker would draw another one. A
    batch is made as Keras makes it: with its converters for whatever counts as an array, and of
    static size where every batch is whole.
    """
    samples, size = adapter._num_samples, adapter._batch_size
    arrays = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow")
    everything = tf.data.Dataset.from_tensors(tree.lists_to_tuples(arrays)).repeat()
    indices = tf.data.Dataset.range(samples).shuffle(samples)
    indices = indices.batch(size, drop_remainder=samples % size == 0)

    def take(index: Tensor, whole: Any) -> Any:
        def rows(part: Any) -> Any:
            if isinstance(part, array_slicing.TensorflowSparseWrapper):
                return array_slicing.slice_tensorflow_sparse_wrapper(part, index)
            if isinstance(part, list | tuple | dict):
                return None  # Go on with what is in it.
            return tf.gather(part, index) if tf.is_tensor(part) else part

        return tree.traverse(rows, whole)

    return tf.data.Dataset.zip((indices, everything)).map(take, num_parallel_calls=1)
