"""Keras' own `fit` in one process, without distribution."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras

from scripts.benchmarks import architectures, batches, keras_layers
from scripts.benchmarks.peer import set_threads
from scripts.benchmarks.spec import Spec


class _Fit:
    """A compiled model and its data.

    Args:
      architecture: the model.
    """

    def __init__(self, architecture: architectures.Architecture) -> None:
        self.children: dict[str, list[int]] = {}
        self._model: Any = keras_layers.build(architecture)
        self._model.compile(
            keras.optimizers.SGD(architectures.LEARNING_RATE), keras_layers.loss(architecture)
        )
        self._data = batches.repeated(architecture, worker=0)

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Make updates of one gradient each."""
        self._model.fit(self._data, steps_per_epoch=steps, verbose=0)
        return steps


@contextlib.contextmanager
def start(spec: Spec) -> Iterator[_Fit]:
    """Build the model."""
    set_threads(spec.intra_op)
    yield _Fit(architectures.ALL[spec.model])
