"""Files of a training that may be interrupted: whole ones only, by the number of updates made."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

import keras

log = logging.getLogger(__name__)

_NAME = "{:09d}.weights.h5"
_PATTERN = re.compile(r"(\d{9})\.weights\.h5")


class Checkpoints:
    """Weights and optimizer state of a compiled Keras model, in a directory.

    A file has its name only once it is whole, so that a reader beside a running job, and the one
    who starts it again, never see a part of one.

    Args:
      directory: made when something is saved.
      keep: how many to keep, the newest.
    """

    def __init__(self, directory: str, keep: int = 3) -> None:
        self.directory = directory
        self._keep = keep

    def steps(self) -> list[int]:
        """Returns the numbers of updates of which there is a file, in order."""
        if not os.path.isdir(self.directory):
            return []
        names = map(_PATTERN.fullmatch, os.listdir(self.directory))
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> str:
        """Returns the path of the file after `step` updates."""
        return os.path.join(self.directory, _NAME.format(step))

    def save(self, model: Any) -> str:
        """Saves a model under its optimizer's number of updates; returns the path."""
        os.makedirs(self.directory, exist_ok=True)
        path = self.path(int(model.optimizer.iterations))
        partial = os.path.join(self.directory, "partial.weights.h5")
        model.save_weights(partial, overwrite=True)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())  # Else a machine that fails could leave an empty file.
        os.replace(partial, path)
        for step in self.steps()[: -self._keep]:
            os.remove(self.path(step))
        return path

    def restore(self, model: Any) -> int:
        """Loads the newest file that can be read; returns its number of updates, 0 without one.

        Newer ones get another name.

        Raises:
          ValueError: if there are files, but none that can be read fits the model.
        """
        errors: dict[int, OSError] = {}
        for step in reversed(self.steps()):
            try:
                self.load(model, step)
            except OSError as error:
                log.warning("%s Trying an older one.", error)
                errors[step] = error
                continue
            for bad in errors:  # Else they would count among the newest.
                os.replace(self.path(bad), f"{self.path(bad)}.unreadable")
            return step
        if errors:
            raise ValueError(
                f"none of the {len(errors)} checkpoints in {self.directory} can be read. Remove "
                "them to start from the beginning."
            ) from min(errors.items())[1]
        return 0

    def load(self, model: Any, step: int) -> None:
        """Loads the file after `step` updates.

        Raises:
          OSError: if it cannot be read.
          ValueError: if it is of another model.
        """
        if not model.optimizer.built:
            with model.distribute_strategy.scope():  # Where the model's variables are.
                model.optimizer.build(model.trainable_variables)
        try:
            model.load_weights(self.path(step))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OSError(f"{self.path(step)} cannot be read ({error}).") from error
        except ValueError as error:
            raise ValueError(
                f"{self.path(step)} does not fit the model {model.name}: it is of another model or "
                f"of other sizes. Give the flags that it was trained with. ({error})"
            ) from error


def _settle(optimizer: Any) -> None:
    """Waits until the model is that of the optimizer's `iterations`, where updates run ahead."""
    while optimizer is not None:
        getattr(optimizer, "settle", lambda: None)()
        optimizer = vars(optimizer).get("inner_optimizer")


class Saving(keras.callbacks.Callback):
    """Saves after every epoch's last update, from time to time in between, and on interruption.

    Place it before callbacks that exchange weights for validation: from the last update of an
    epoch, which it saves, to the next one, the weights are perhaps not the trained ones.

    Args:
      checkpoints: where to.
      every_s: seconds between two in the middle of an epoch.
      start: updates whose weights the model has.
    """

    runs_behind = True  # Between two savings, training need not wait for this.

    def __init__(self, checkpoints: Checkpoints, every_s: float, start: int) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._every_s = every_s
        self._saved, self._saved_at = start, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves if it is time."""
        del logs
        ends = batch + 1 == self.params["steps"]
        if ends or time.monotonic() - self._saved_at > self._every_s:
            self._save()

    def interrupted(self) -> None:
        """Saves what there is, after `fit` has been cut off, if there is something new."""
        begun = self.model is not None
        if begun and int(self.model.optimizer.iterations) != self._saved:
            self._save()

    def _save(self) -> None:
        _settle(self.model.optimizer)
        self._checkpoints.save(self.model)
        self._saved, self._saved_at = int(self.model.optimizer.iterations), time.monotonic()
