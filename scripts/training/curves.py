"""Curves for TensorBoard, which a full disk ends without ending the training."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_backup.actors.failures import gist

log = logging.getLogger(__name__)


class Curves(keras.callbacks.TensorBoard):
    """Keras' TensorBoard callback, without the graph.

    An error while it writes, such as on a full disk, costs points of the curves. The first one is
    logged, and later epochs are written if there is room again.

    Args:
      directory: directory of the event files.
    """

    runs_behind = True  # It writes at the ends of epochs.

    def __init__(self, directory: str) -> None:
        super().__init__(directory, write_graph=False)
        self._warned = False

    @contextlib.contextmanager
    def _sparing_the_training(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if not self._warned:
                log.warning(
                    "TensorBoard's curves could not be written: %s. Training goes on.", _said(error)
                )
            self._warned = True

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the file of the training's curves."""
        with self._sparing_the_training():
            super().on_train_begin(logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Do nothing: only epochs are written."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Do nothing.

        Keras writes to TensorFlow's default writer here. Usually there is none; but a writer that
        could not be flushed at the end of its context stays the default.
        """

    def on_test_begin(self, logs: Any = None) -> None:
        """Open the file of the validation's curves."""
        with self._sparing_the_training():
            super().on_test_begin(logs)

    def on_test_end(self, logs: Any = None) -> None:
        """Write the results of a validation."""
        with self._sparing_the_training():
            super().on_test_end(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the results of an epoch."""
        with self._sparing_the_training():
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Close the files."""
        with self._sparing_the_training():
            super().on_train_end(logs)


def _said(error: Exception) -> str:
    return gist(error) if isinstance(error, tf.errors.OpError) else str(error)
