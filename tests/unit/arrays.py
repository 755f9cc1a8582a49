"""Arrays of every kind that `fit` takes, and the batches made from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from tf_backup.keras import _adapters

SAMPLES, SIZE = 16, 4


class Duck:
    """Object that is not an array, but can be converted to one."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.array, dtype)


def frame(array: Any) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(array)


KINDS: dict[str, Callable[[Any], Any]] = {
    "float32": lambda array: array,
    "float64": lambda array: array.astype(np.float64),
    "tensor": tf.constant,
    "__array__": Duck,
    "ragged": lambda array: tf.RaggedTensor.from_tensor(tf.constant(array)),
    "sparse": lambda array: tf.sparse.from_dense(tf.constant(array)),
    "scipy": scipy.sparse.csr_matrix,
    "data frame": frame,
}


def numbered() -> np.ndarray[Any, Any]:
    """Return samples that contain their number: the n-th is [n + 1, 1]."""
    return np.stack([np.arange(SAMPLES) + 1, np.ones(SAMPLES)], 1).astype(np.float32)


def source(x: Any, y: Any = None, **options: Any) -> _adapters.Source:
    given = {"sample_weight": None, "batch_size": SIZE, "shuffle": True, "class_weight": None}
    return _adapters.source(x=x, y=y, steps_per_epoch=None, **{**given, **options})
