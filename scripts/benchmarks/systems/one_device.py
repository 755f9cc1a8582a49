"""Plain training step in one process, without distribution and without Keras: the ceiling."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from scripts.benchmarks import architectures, batches, plain_layers
from scripts.benchmarks.peer import set_threads
from scripts.benchmarks.spec import Spec


class _OneDevice:
    """A model and its training step.

    Args:
      architecture: the model.
      tf: TensorFlow.
    """

    def __init__(self, architecture: architectures.Architecture, tf: Any) -> None:
        self.children: dict[str, list[int]] = {}
        weights = plain_layers.weights(architecture)
        variables = [tf.Variable(each.value, trainable=each.trainable) for each in weights]
        self._iterator = iter(batches.repeated(architecture, worker=0))

        @tf.function(autograph=False)
        def step(iterator: Any) -> None:
            plain_layers.update(architecture, variables, *next(iterator))

        self._step = step

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Make updates of one gradient each."""
        for _ in range(steps):
            self._step(self._iterator)
        return steps


@contextlib.contextmanager
def start(spec: Spec) -> Iterator[_OneDevice]:
    """Create the variables."""
    yield _OneDevice(architectures.ALL[spec.model], set_threads(spec.intra_op))
