"""Private Keras APIs: data adapters, which convert the input of `fit` and `evaluate`."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_backup.actors.python_data import Source
from tf_backup.annotations import Tensor
from tf_backup.keras._private_keras import array_slicing, config, data_adapters, tree

_MOVABLE = (data_adapters.ArrayDataAdapter, data_adapters.TFDatasetAdapter)
_OTHERS = ("torch_dataloader", "grain_dataset")
_LARGEST_ARRAYS = 2**31 - 2**24  # Bytes; a serialized graph must be below 2 GiB.


def source(**data: Any) -> Source:
    """Return the data of `fit`, or the arrays or the data set of `evaluate`, as a `Source`."""
    if isinstance(data.get("x"), tf.distribute.DistributedDataset):
        raise TypeError(
            "x is a data set that the strategy has distributed already. Give the tf.data.Dataset "
            "itself: tf_backup shares its batches out among the workers."
        )
    # Without shuffle: Keras warns if it is set for data that Keras cannot shuffle.
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
    """Return the spec of a batch of an epoch iterator, which is a `Feed` or Keras' own."""
    own = getattr(iterator, "_distributed_dataset", None)
    return iterator.data.element_spec if own is None else own.element_spec


def is_python(x: Any) -> bool:
    """Return whether `x` is Python data, which only this process can read."""
    if isinstance(x, types.GeneratorType | keras.utils.PyDataset):
        return True
    # Data types of other packages; not every Keras version knows them.
    tests = (getattr(data_adapters, f"is_{kind}", None) for kind in _OTHERS)
    return any(test is not None and test(x) for test in tests)


def _source_here(adapter: Any, x: Any) -> Source:
    """Return the source of data that this process reads; it records errors of the user's code."""
    errors: list[BaseException] = []

    def noting(generate: Callable[[], Any]) -> Callable[[], Iterator[Any]]:
        def generator() -> Iterator[Any]:
            try:
                yield from generate()
            except Exception as error:
                errors.append(error)
                raise

        return generator

    # For generators and PyDatasets. The adapter was made for this source, which keeps the changes.
    for name in ("generator", "_get_iterator"):
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
    """Return the steps per epoch, capped by `keras.config.set_max_steps_per_epoch`."""
    most = config.max_steps_per_epoch()
    if not most or (steps is not None and steps <= most):
        return steps
    warnings.warn(f"Limiting steps_per_epoch to {most}", stacklevel=3)
    return int(most)


def _check_size(adapter: Any) -> None:
    """Raise ValueError if the arrays are empty or too large to send to the workers."""
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
    """Return batches of an array adapter's samples, in a new order in every pass.

    Keras' own data set draws the order in a `map`, where every worker would draw a different one.
    Batches are made as Keras makes them: with its converters for all types of arrays, and with a
    static size if every batch is full.
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
                return None  # Traverse its elements.
            return tf.gather(part, index) if tf.is_tensor(part) else part

        return tree.traverse(rows, whole)

    return tf.data.Dataset.zip((indices, everything)).map(take, num_parallel_calls=1)
