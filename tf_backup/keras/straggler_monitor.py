"""Keras callback that records who is slow: files for the report, and scalars for TensorBoard."""

from __future__ import annotations

import datetime
import importlib.util
import logging
import os
import pathlib
import platform
import sys
import threading
import time
import uuid
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.checks import checked_int
from tf_backup.keras import _internals
from tf_backup.keras.optimizer import find
from tf_backup.timeline.parquet import Writer
from tf_backup.timeline.scalars import Scalars
from tf_backup.timeline.schema import CONTRIBUTION, UPDATE, Rows, Settings
from tf_backup.timeline.windows import Window, Windows

log = logging.getLogger(__name__)

_SCALARS = "stragglers"  # Folder of TensorBoard's events, below the log folder.


class StragglerMonitor(keras.callbacks.Callback):
    """Callback that records when each gradient arrives, what becomes of it, and who is slow.

    It writes, under `log_dir`, records for `scripts/report.py` and `tf_backup.recommend` (Parquet
    files in `records/`), and scalars and histograms for TensorBoard (in `stragglers/`).

    Example:

        model.fit(dataset, epochs=5, callbacks=[tf_backup.StragglerMonitor("logs")])

    Args:
      log_dir: folder to write to; None to write nothing, and only to have `window`.
      every_s: seconds between two writes. A process that is killed loses the rows of that time.
      batch_size: number of samples in one gradient, for samples per second; None if unknown.

    Attributes:
      window: summary of the last `every_s` seconds of training; None at first. See
        `tf_backup.timeline.windows.Window`.

    Raises:
      TypeError, ValueError: if an argument is out of range.
      ModuleNotFoundError: if `log_dir` is given, and pyarrow or tensorboard is not installed.
    """

    runs_behind = True  # It reads the timeline, in which updates have their numbers.

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None,
        every_s: float = 15.0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(every_s, int | float) or not every_s > 0:
            raise ValueError(f"every_s is {every_s!r}; it must be a number of seconds above 0.")
        if batch_size is not None:
            batch_size = checked_int("batch_size", batch_size)
        if log_dir is not None:
            _check_installed()
        self.window: Window | None = None
        self._log_dir = None if log_dir is None else pathlib.Path(log_dir)
        self._every_s = every_s
        self._batch_size = batch_size
        self._optimizer: Any = None  # The one that the session is of.
        self._windows: Windows | None = None
        self._files: Writer | None = None
        self._scalars: Scalars | None = None
        self._failed = False  # Whether a warning has said that writing fails.
        self._rows: list[tuple[Rows, Rows]] = []
        self._lock = threading.Lock()
        self._written_at = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Listen to the optimizer, and begin a session if this is the first time.

        Raises:
          ValueError: if the optimizer is not wrapped, or records no times.
        """
        del logs
        optimizer = find(self.model.optimizer)
        if optimizer is None:
            raise ValueError(
                "StragglerMonitor needs an optimizer made by tf_backup.wrap: on one device there "
                "are no stragglers."
            )
        if self._optimizer is not optimizer:  # The first fit, or that of another model.
            self._optimizer = optimizer
            self._begin(self._settings(optimizer))
        self._written_at = time.monotonic()
        optimizer.listen(self._collect, self._end)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write if it is time."""
        del batch, logs
        if time.monotonic() - self._written_at >= self._every_s:
            self._flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Write all that has happened so far; the rest follows when `fit` returns."""
        del logs
        self._optimizer.read_timeline()
        self._flush()

    def _begin(self, settings: Settings) -> None:
        """Begin a session; later fits of the same optimizer belong to it."""
        self._windows = Windows(settings)
        if self._log_dir is not None:
            self._files = Writer(self._log_dir, settings)
            self._scalars = Scalars(self._log_dir / _SCALARS)

    def _collect(self, contributions: Rows, updates: Rows) -> None:
        """Keep rows until they are written; called in another thread."""
        with self._lock:
            self._rows.append((contributions, updates))

    def _flush(self) -> None:
        """Write the rows that are there."""
        with self._lock:
            rows, self._rows = self._rows, []
        self._written_at = time.monotonic()
        if not rows or self._windows is None:
            return
        contributions = np.concatenate([np.zeros(0, CONTRIBUTION), *(pair[0] for pair in rows)])
        updates = np.concatenate([np.zeros(0, UPDATE), *(pair[1] for pair in rows)])
        window = self._windows.next(contributions, updates)
        self.window = window or self.window
        try:
            if self._files is not None:
                self._files.write(contributions, updates)
            if self._scalars is not None and window is not None:
                self._scalars.write(window)
            self._failed = False
        except OSError as error:
            self._warn(error)

    def _end(self) -> None:
        """Write the last rows, when the workers have finished."""
        self._flush()
        try:
            if self._scalars is not None:
                self._scalars.close()
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        """Say that rows could not be written: a full disk costs them, and not the training."""
        if not self._failed:
            log.warning("Records of this training could not be written: %s.", error)
        self._failed = True

    def _settings(self, optimizer: Any) -> Settings:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        versions = {
            "tf_backup": sys.modules["tf_backup"].__version__,  # Also from a clone, not installed.
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        }
        return Settings(
            replicas=optimizer.replicas,
            backups=optimizer.backups,
            max_staleness=optimizer.max_staleness,
            parameter_servers=runtime.ps_count(_internals.strategy_of(self.model)),
            batch_size=self._batch_size,
            model=self.model.name,
            session=f"{now}-{uuid.uuid4().hex[:8]}",
            versions=versions,
        )


def _check_installed() -> None:
    """Check that the packages are there that write the files in `log_dir`.

    Raises:
      ModuleNotFoundError: if one is missing. TensorFlow 2.21 brings no TensorBoard.
    """
    names = ("pyarrow", "tensorboard")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"StragglerMonitor needs {' and '.join(missing)} to write to log_dir. Run pip install "
            "'tf_backup[report]', or pass log_dir=None.",
            name=missing[0],
        )
