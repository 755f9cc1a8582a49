"""Data of the benchmark: each worker repeats one batch from memory, so that input costs nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from scripts.benchmarks.architectures import Architecture


def repeated(architecture: Architecture, worker: int) -> Any:
    """Return an endless data set that repeats the batch of a worker."""
    return tf.data.Dataset.from_tensors(batch(architecture, worker)).repeat()


def batch(architecture: Architecture, worker: int) -> tuple[Any, Any]:
    """Return the batch of a worker; always the same.

    Returns:
      Inputs, [batch, *shape] float32 or, for a table, int64; and targets: [batch] int64 classes,
      or [batch, outputs] float32 values.
    """
    random = np.random.default_rng(worker)
    size = architecture.batch_size
    if architecture.ids is None:
        x: Any = random.normal(size=(size, *architecture.shape)).astype(np.float32)
    else:
        x = random.integers(architecture.ids, size=(size, *architecture.shape))
    if architecture.classes:
        return x, random.integers(architecture.outputs, size=size)
    return x, random.normal(size=(size, architecture.outputs)).astype(np.float32)
