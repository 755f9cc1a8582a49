"""Files of a training that may be interrupted: whole ones only, by the number of updates made."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import time
from typing import Any

import keras
import numpy as np

log = logging.getLogger(__name__)

_NAME = "{:09d}-{}.weights.h5"
# The number of updates, and the beginning of the SHA-256 of the contents. (Version 0.1.0 had none.)
_PATTERN = re.compile(r"(\d{9})(?:-([0-9a-f]{16}))?\.weights\.h5")
_DIGITS = 16


class Checkpoints:
    """Weights and optimizer state of a compiled Keras model, in a directory.

    A file has its name only once it is whole, so that a reader beside a running job, and the one
    who starts it again, never see a part of one. The name has a checksum of the contents, which is
    verified before they are used: HDF5 reads damaged numbers without complaint.

    Args:
      directory: made when something is saved.
      keep: how many to keep, the newest.
    """

    def __init__(self, directory: str, keep: int = 3) -> None:
        self.directory = directory
        self._keep = keep

    def steps(self) -> list[int]:
        """Returns the numbers of updates of which there is a file, in order."""
        return sorted(self._files())

    def path(self, step: int) -> str:
        """Returns the path of the file after `step` updates.

        Raises:
          FileNotFoundError: if there is none.
        """
        if step not in self._files():
            raise FileNotFoundError(f"{self.directory} has no checkpoint after {step} updates.")
        return os.path.join(self.directory, self._files()[step])

    def save(self, model: Any) -> str:
        """Saves a model under its optimizer's number of updates; returns the path.

        Raises:
          OSError: if there is no room for it, or it cannot be written. What there was is kept.
        """
        step = int(model.optimizer.iterations)
        partial = os.path.join(self.directory, "partial.weights.h5")
        try:
            os.makedirs(self.directory, exist_ok=True)
            _reserve(partial, _size(model))
            model.save_weights(partial, overwrite=True)
            name = _NAME.format(step, _checksum(partial))
            _sync(partial)  # Else a machine that fails could leave an empty file.
            os.replace(partial, os.path.join(self.directory, name))
            _sync(self.directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(partial)
            raise
        self._forget_others(step, name)
        return os.path.join(self.directory, name)

    def _files(self) -> dict[int, str]:
        """Returns the names of the files by their number of updates."""
        if not os.path.isdir(self.directory):
            return {}
        names = map(_PATTERN.fullmatch, sorted(os.listdir(self.directory)))
        return {int(name[1]): name[0] for name in names if name}

    def _forget_others(self, step: int, name: str) -> None:
        """Removes other files of the same number of updates, and those that are too many."""
        kept = self.steps()[-self._keep :]
        for other in os.listdir(self.directory):
            known = _PATTERN.fullmatch(other)
            if known and (int(known[1]) not in kept or (int(known[1]) == step and other != name)):
                os.remove(os.path.join(self.directory, other))

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
                path = self.path(bad)
                os.replace(path, f"{path}.unreadable")
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
          OSError: if it cannot be read, or is not what was saved.
          ValueError: if it is of another model.
        """
        self._verify(step)
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

    def _verify(self, step: int) -> None:
        """Raises OSError if a file's contents are not those that were saved."""
        path = self.path(step)
        known = _PATTERN.fullmatch(os.path.basename(path))
        assert known is not None
        if known[2] is not None and _checksum(path) != known[2]:
            raise OSError(
                f"{path} cannot be read (it is damaged: the checksum in its name is not that of "
                "its contents)."
            )


def _size(model: Any) -> int:
    """Returns how many bytes a model's file has, or some more."""
    variables = [*model.variables, *model.optimizer.variables]
    numbers: int = sum(
        int(np.prod(each.shape)) * np.dtype(each.dtype).itemsize for each in variables
    )
    return numbers + 4096 * len(variables) + 2**16


def _reserve(path: str, size: int) -> None:
    """Makes sure that a file has room: HDF5 may crash where a disk fills up while it writes.

    Raises:
      OSError: if there is none.
    """
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # Not of this file system.
                raise OSError(error.errno, error.strerror, path) from error


def _checksum(path: str) -> str:
    """Returns the beginning of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:_DIGITS]


def _sync(path: str) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle(optimizer: Any) -> None:
    """Waits until the model is that of the optimizer's `iterations`, where updates run ahead."""
    while optimizer is not None:
        getattr(optimizer, "settle", lambda: None)()
        optimizer = vars(optimizer).get("inner_optimizer")


class Saving(keras.callbacks.Callback):
    """Saves after every epoch's last update, from time to time in between, and on interruption.

    Place it before callbacks that exchange weights for validation: from the last update of an
    epoch, which it saves, to the next one, the weights are perhaps not the trained ones. A full
    disk costs a checkpoint, and not the training.

    Args:
      checkpoints: where to.
      every_s: seconds between two in the middle of an epoch.
      start: updates whose weights the model has.

    Attributes:
      error: why the last one could not be saved; None if it was.
    """

    runs_behind = True  # Between two savings, training need not wait for this.

    def __init__(self, checkpoints: Checkpoints, every_s: float, start: int) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._every_s = every_s
        self._saved, self._saved_at = start, time.monotonic()
        self.error: OSError | None = None

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
        self._saved_at = time.monotonic()
        try:
            self._checkpoints.save(self.model)
        except OSError as error:
            self.error = error
            log.warning(
                "No checkpoint after %d updates: %s. Training goes on; the newest checkpoint is "
                "that after %d updates.",
                int(self.model.optimizer.iterations),
                error,
                max(self._checkpoints.steps(), default=0),
            )
            return
        self.error = None
        self._saved, self._saved_at = int(self.model.optimizer.iterations), time.monotonic()
