"""Progress and speed of training, in log lines and in a CSV file."""

from __future__ import annotations

import csv
import logging
import os
import time
from typing import Any

import keras

log = logging.getLogger(__name__)


class Clock(keras.callbacks.Callback):
    """Callback that adds the number of updates, and their time, to an epoch's logs.

    Attributes:
      seconds: time spent on updates, without validation.
    """

    runs_behind = True  # It reads the clock, and nothing else.

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        del epoch, logs
        self._since = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Add the time of an update."""
        del batch, logs
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add updates and seconds to the logs, for later callbacks and the history."""
        del epoch
        if logs is not None:
            logs.update(updates=int(self.model.optimizer.iterations), seconds=self.seconds)


class History(keras.callbacks.Callback):
    """Callback that keeps a CSV file with a row for each epoch, including those before a restart.

    The file is rewritten each time, completely or not at all: columns may be added, and an epoch
    that is repeated after resuming from an older checkpoint has one row.

    Args:
      path: path of the file.
      start: number of updates made before; rows of later updates are dropped.
    """

    def __init__(self, path: str, start: int) -> None:
        super().__init__()
        self._path = path
        self._rows: list[dict[str, Any]] = []
        if os.path.exists(path):
            rows, whole = _read(path)
            self._rows = [row for row in rows if int(row["updates"]) <= start]
            if not whole:
                os.replace(path, f"{path}.damaged")
                log.warning(
                    "%s is damaged; it is %s.damaged now. Goes on with the %d rows that could be "
                    "read.",
                    path,
                    path,
                    len(self._rows),
                )

    def has(self, updates: int) -> bool:
        """Return whether there is a row for an epoch that ended after `updates` updates."""
        return any(int(row["updates"]) == updates for row in self._rows)

    def add(self, epoch: int, logs: dict[str, Any]) -> None:
        """Add a row of an epoch's logs, which have "updates"."""
        self._rows.append({"epoch": epoch, **logs})
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        partial = f"{self._path}.partial"
        try:
            with open(partial, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self._rows)
            os.replace(partial, self._path)
        except OSError as error:  # The next epoch writes this row, too.
            log.warning("%s could not be written: %s.", self._path, error)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add a row for the epoch."""
        self.add(epoch, logs or {})


def _read(path: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the rows before the first damaged one, and whether the whole file is intact."""
    rows: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
        whole = not text or text.endswith("\n")  # Otherwise the last row is cut off.
        lines = text.splitlines(keepends=True)
        for row in csv.DictReader(lines if whole else lines[:-1], strict=True):
            if None in row or None in row.values():
                return rows, False
            int(row["updates"])
            for value in row.values():
                float(value or 0)  # Empty where a column was added later.
            rows.append(row)
    except (csv.Error, KeyError, ValueError):  # A UnicodeDecodeError is a ValueError.
        return rows, False
    return rows, whole


class Lines(keras.callbacks.Callback):
    """Callback that logs a line at intervals, for output that cannot show a progress bar.

    Args:
      updates: number of updates in the whole training run.
      every_s: seconds between two lines.
    """

    runs_behind = True  # The progress that it logs need not be exact to the update.

    def __init__(self, updates: int, every_s: float = 10.0) -> None:
        super().__init__()
        self._updates = updates
        self._every_s = every_s
        self._made: int | None = None
        self._at = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Log a line if it is time."""
        del batch
        now = time.monotonic()
        if self._made is None:
            self._made, self._at = int(self.model.optimizer.iterations), now
        if now - self._at < self._every_s:
            return
        made = int(self.model.optimizer.iterations)
        speed = (made - self._made) / (now - self._at)
        left_s = (self._updates - made) / speed if speed else float("inf")
        log.info(
            "update %d of %d, %.2f updates/s, about %.0f min left: %s",
            made,
            self._updates,
            speed,
            left_s / 60,
            described(logs or {}),
        )
        self._made, self._at = made, now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the epoch's results."""
        log.info("epoch %d: %s", epoch + 1, described(logs or {}))


def described(logs: dict[str, Any]) -> str:
    """Return metrics as text: accuracies in percent, others as numbers."""
    parts = []
    for name, value in logs.items():
        form = ".2%" if name.endswith("accuracy") else ".0f" if name == "updates" else ".4f"
        parts.append(f"{name} {float(value):{form}}")
    return ", ".join(parts)
