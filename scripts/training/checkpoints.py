"""Checkpoints of training that can be interrupted, named by the number of updates made."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import time
import warnings
from typing import Any

import keras
import numpy as np

from scripts.training import weights_file

log = logging.getLogger(__name__)

_NAME = "{:09d}-{}.weights.h5"
# The number of updates, and the first digits of the contents' SHA-256 (none in version 0.1.0).
_PATTERN = re.compile(r"(\d{9})(?:-([0-9a-f]{16}))?\.weights\.h5")
_DIGITS = 16
_UNREADABLE = ".unreadable"  # Ending of damaged files that are set aside.


class Checkpoints:
    """Checkpoints in a directory: weights and optimizer state of a compiled Keras model.

    A file gets its name only once it is complete, so that neither a reader beside a running job nor
    a restarted job sees part of one. The name has a checksum of the contents, which is verified
    before they are used: HDF5 reads damaged numbers without complaint.

    Args:
      directory: path of the directory, which is created by the first save.
      keep: number of checkpoints to keep, the newest ones, and of damaged ones that are set aside.
    """

    def __init__(self, directory: str, keep: int = 3) -> None:
        self.directory = directory
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the numbers of updates that have a checkpoint, in order."""
        return sorted(self._files())

    def path(self, step: int) -> str:
        """Return the path of the checkpoint after `step` updates.

        Raises:
          FileNotFoundError: if there is none.
        """
        if step not in self._files():
            raise FileNotFoundError(f"{self.directory} has no checkpoint after {step} updates.")
        return os.path.join(self.directory, self._files()[step])

    def save(self, model: Any) -> str:
        """Save a model under its optimizer's number of updates, and return the path.

        Raises:
          OSError: if there is no room, or the file cannot be written. Older files are kept.
        """
        step = int(model.optimizer.iterations)
        partial = os.path.join(self.directory, "partial.weights.h5")
        try:
            os.makedirs(self.directory, exist_ok=True)
            _reserve(partial, _size(model))
            model.save_weights(partial, overwrite=True)
            name = _NAME.format(step, _checksum(partial))
            _sync(partial)  # Otherwise a crash of the machine could leave an empty file.
            os.replace(partial, os.path.join(self.directory, name))
            _sync(self.directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(partial)
            raise
        self._forget_others(step, name)
        return os.path.join(self.directory, name)

    def _files(self) -> dict[int, str]:
        """Return the file names by number of updates."""
        if not os.path.isdir(self.directory):
            return {}
        names = map(_PATTERN.fullmatch, sorted(os.listdir(self.directory)))
        return {int(name[1]): name[0] for name in names if name}

    def _forget_others(self, step: int, name: str) -> None:
        """Remove other files of the same number of updates, and those beyond `keep`."""
        kept = self.steps()[-self._keep :]
        for other in os.listdir(self.directory):
            known = _PATTERN.fullmatch(other)
            if known and (int(known[1]) not in kept or (int(known[1]) == step and other != name)):
                os.remove(os.path.join(self.directory, other))

    def _forget_unreadable(self) -> None:
        """Remove files that were set aside, but for the `keep` newest ones."""
        names = [name for name in os.listdir(self.directory) if name.endswith(_UNREADABLE)]
        paths = [os.path.join(self.directory, name) for name in sorted(names)]
        for path in sorted(paths, key=os.path.getmtime)[: -self._keep]:
            os.remove(path)

    def restore(self, model: Any) -> int:
        """Load the newest readable checkpoint; return its number of updates, or 0 without any.

        Unreadable newer ones are renamed.

        Raises:
          ValueError: if there are checkpoints but none is readable, or if the newest readable one
            does not fit the model.
        """
        errors: dict[int, OSError] = {}
        for step in reversed(self.steps()):
            try:
                self.load(model, step)
            except OSError as error:
                log.warning("%s Trying an older one.", error)
                errors[step] = error
                continue
            for bad in errors:  # Otherwise they would count among the newest.
                path = self.path(bad)
                os.replace(path, f"{path}{_UNREADABLE}")
            self._forget_unreadable()
            return step
        if errors:
            raise ValueError(
                f"none of the {len(errors)} checkpoints in {self.directory} can be read. Remove "
                "them to start from the beginning."
            ) from min(errors.items())[1]
        return 0

    def load(self, model: Any, step: int) -> None:
        """Load the checkpoint after `step` updates.

        Raises:
          OSError: if the file cannot be read, or is damaged.
          ValueError: if it belongs to another model.
        """
        self._verify(step)
        if not model.optimizer.built:
            with model.distribute_strategy.scope():  # On the devices of the model's variables.
                model.optimizer.build(model.trainable_variables)
        try:
            with warnings.catch_warnings():
                # Keras would go on with an optimizer as it is at the beginning.
                warnings.filterwarnings("error", "Skipping variable loading")
                model.load_weights(self.path(step))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OSError(f"{self.path(step)} cannot be read ({error}).") from error
        except ValueError as error:
            raise ValueError(
                f"{self.path(step)} does not fit the model {model.name}: "
                f"{_difference(model, self.path(step)) or str(error).strip().splitlines()[0]}. "
                "Give the flags that it was trained with."
            ) from error

    def _verify(self, step: int) -> None:
        """Raise OSError if a file's contents do not match the checksum in its name."""
        path = self.path(step)
        known = _PATTERN.fullmatch(os.path.basename(path))
        assert known is not None
        if known[2] is not None and _checksum(path) != known[2]:
            raise OSError(
                f"{path} cannot be read (it is damaged: the checksum in its name is not that of "
                "its contents)."
            )


def _difference(model: Any, path: str) -> str:
    """Return how a file differs from a model; "" if that cannot be found out."""
    with contextlib.suppress(OSError):
        return weights_file.difference(model, path)
    return ""


def _size(model: Any) -> int:
    """Return an upper bound on the size of a model's file, in bytes."""
    variables = [*model.variables, *model.optimizer.variables]
    numbers: int = sum(
        int(np.prod(each.shape)) * np.dtype(each.dtype).itemsize for each in variables
    )
    return numbers + 4096 * len(variables) + 2**16


def _reserve(path: str, size: int) -> None:
    """Reserve room for a file, since HDF5 may crash if the disk fills up while it writes.

    Raises:
      OSError: if there is no room.
    """
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # Not supported here.
                raise OSError(error.errno, error.strerror, path) from error


def _checksum(path: str) -> str:
    """Return the first digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:_DIGITS]


def _sync(path: str) -> None:
    """Wait until a file's contents, or a directory's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle(optimizer: Any) -> None:
    """Wait until the model is that after `iterations` updates, in case updates run ahead."""
    while optimizer is not None:
        getattr(optimizer, "settle", lambda: None)()
        optimizer = vars(optimizer).get("inner_optimizer")


class Saving(keras.callbacks.Callback):
    """Callback that saves after every epoch's last update, at intervals, and on interruption.

    Place it before callbacks that exchange weights for validation: from the last update of an
    epoch, which it saves, to the end of validation, the weights may not be the trained ones. A full
    disk costs a checkpoint, not the training run.

    Args:
      checkpoints: checkpoints to add to.
      every_s: seconds between two checkpoints in the middle of an epoch.
      start: number of updates that the model has already made.

    Attributes:
      error: why the last checkpoint could not be saved; None if it was saved.
    """

    runs_behind = True  # Between two checkpoints, training need not wait for it.

    def __init__(self, checkpoints: Checkpoints, every_s: float, start: int) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._every_s = every_s
        self._saved, self._saved_at = start, time.monotonic()
        self._validating = False
        self.error: OSError | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save if it is time."""
        del logs
        ends = batch + 1 == self.params["steps"]
        if ends or time.monotonic() - self._saved_at > self._every_s:
            self._save()

    def on_test_begin(self, logs: Any = None) -> None:
        """Note that the weights may be exchanged from now on."""
        del logs
        self._validating = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note that the weights are the trained ones: all callbacks have seen `on_test_end`."""
        del epoch, logs
        self._validating = False

    def interrupted(self) -> None:
        """Save the current state after `fit` has been cut off, unless it is saved already.

        Nothing is saved during validation, when weights and their averages may be exchanged. The
        trained weights have then been saved already, unless there was no room.
        """
        if self.model is None or int(self.model.optimizer.iterations) == self._saved:
            return
        if self._validating:
            log.warning(
                "Cut off during validation: no checkpoint is saved, and the newest is that after "
                "%d updates.",
                max(self._checkpoints.steps(), default=0),
            )
            return
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
