"""Log of the updates of a training run, for a process that watches it on the same machine.

The file has a JSON object on each line:

    {"time": 81.25, "start": 100}         training starts, or starts again, after 100 updates
    {"time": 81.31, "update": 101}        101 updates have been made
    {"time": 99.02, "validation": 200}    a validation begins, after 200 updates

Times are seconds of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

import keras

log = logging.getLogger(__name__)


class UpdateLog(keras.callbacks.Callback):
    """Callback that appends a line to a file at each start, update and validation.

    A line is written as a whole, so that a process that reads beside it sees no part of one. A file
    that cannot be written any more costs the log, not the training run.

    Args:
      path: path of the file, which may have lines of the same training run before a restart.

    Raises:
      OSError: if the file cannot be opened.
    """

    runs_behind = True  # It counts, and reads the clock.

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._made: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Note the start, unless an earlier `fit` of this process did."""
        del logs
        if self._made is None:
            self._made = int(self.model.optimizer.iterations)
            self._note("start", self._made)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note an update."""
        del batch, logs
        assert self._made is not None
        self._made += 1
        self._note("update", self._made)

    def on_test_begin(self, logs: Any = None) -> None:
        """Note a validation."""
        del logs
        if self._made is not None:
            self._note("validation", self._made)

    def _note(self, name: str, value: int) -> None:
        if self._file is None:
            return
        line = json.dumps({"time": round(time.monotonic(), 4), name: value}) + "\n"
        try:
            os.write(self._file, line.encode())
        except OSError as error:
            log.warning("%s could not be written: %s. Its log ends here.", self._path, error)
            os.close(self._file)
            self._file = None
