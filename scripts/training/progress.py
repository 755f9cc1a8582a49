"""How far a training is, and how fast: for people who read logs, and for files."""

from __future__ import annotations

import csv
import logging
import os
import time
from typing import Any

import keras

log = logging.getLogger(__name__)


class Clock(keras.callbacks.Callback):
    """Measures the time that updates take, without validation; adds both to an epoch's logs.

    Attributes:
      seconds: spent on updates.
    """

    runs_behind = True  # It looks at its watch, and at nothing else.

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts."""
        del epoch, logs
        self._since = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts an update."""
        del batch, logs
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tells the callbacks behind it, and the history."""
        del epoch
        if logs is not None:
            logs.update(updates=int(self.model.optimizer.iterations), seconds=self.seconds)


class History(keras.callbacks.Callback):
    """Keeps a CSV file with a row for each epoch; of those before this start, too.

    The file is written anew each time, whole or not at all: columns may be added, and what a
    training makes again, going on from an older checkpoint, is in it once.

    Args:
      path: of the file.
      start: updates that were made before; what the file says of later ones is dropped.
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
        """Returns whether there is a row of an epoch that ended after `updates` updates."""
        return any(int(row["updates"]) == updates for row in self._rows)

    def add(self, epoch: int, logs: dict[str, Any]) -> None:
        """Adds what an epoch came to, with its "updates"."""
        self._rows.append({"epoch": epoch, **logs})
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        partial = f"{self._path}.partial"
        try:
            with open(partial, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self._rows)
            os.replace(partial, self._path)
        except OSError as error:  # With the next epoch, this one is written, too.
            log.warning("%s could not be written: %s.", self._path, error)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds a row."""
        self.add(epoch, logs or {})


def _read(path: str) -> tuple[list[dict[str, Any]], bool]:
    """Returns the rows of a history up to the first that is damaged; whether none is."""
    rows: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
        whole = not text or text.endswith("\n")  # Else the last row has been cut off.
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
    """Logs a line from time to time, where a progress bar would only make a mess.

    Args:
      updates: of the whole training.
      every_s: seconds between two lines.
    """

    runs_behind = True  # What it says of progress need not be exact to the update.

    def __init__(self, updates: int, every_s: float = 10.0) -> None:
        super().__init__()
        self._updates = updates
        self._every_s = every_s
        self._made: int | None = None
        self._at = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Logs a line if it is time."""
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
        """Logs what the epoch came to."""
        log.info("epoch %d: %s", epoch + 1, described(logs or {}))


def described(logs: dict[str, Any]) -> str:
    """Returns metrics in words: accuracies in percent, the rest as numbers."""
    parts = []
    for name, value in logs.items():
        form = ".2%" if name.endswith("accuracy") else ".0f" if name == "updates" else ".4f"
        parts.append(f"{name} {float(value):{form}}")
    return ", ".join(parts)
