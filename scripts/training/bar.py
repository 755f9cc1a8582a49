"""Progress bar of an epoch in a terminal: results, speed, and who is slow, within 80 columns."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

import keras

from scripts.training.progress import described

COLUMNS = 79
_EVERY_S = 0.2  # Least time between two drawings.
_BAR = 12


class Bar(keras.callbacks.Callback):
    """Callback that draws a line for each epoch, and draws it again as updates are made.

    Args:
      monitor: a `tf_backup.StragglerMonitor`, whose window tells who is slow; None without a
        cluster.
      file: where to draw.
    """

    runs_behind = True  # It draws what it is told.

    def __init__(self, monitor: Any = None, file: TextIO | None = None) -> None:
        super().__init__()
        self._monitor = monitor
        self._file = file or sys.stdout
        self._made = 0
        self._since = self._drawn_at = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin a line."""
        del logs
        self._made, self._since, self._drawn_at = 0, time.monotonic(), 0.0
        self._file.write(f"Epoch {epoch + 1}/{self.params['epochs']}\n")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Draw the line if it is time."""
        self._made = batch + 1
        if time.monotonic() - self._drawn_at >= _EVERY_S:
            self._draw(logs or {})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Draw the line for the last time, and what validation has found below it."""
        del epoch
        logs = logs or {}
        self._draw({name: value for name, value in logs.items() if not _apart(name)})
        validated = {name: value for name, value in logs.items() if name.startswith("val_")}
        self._file.write("\n" + (f"  {described(validated)}\n" if validated else ""))
        self._file.flush()

    def _draw(self, logs: dict[str, Any]) -> None:
        self._drawn_at = time.monotonic()
        self._file.write("\r" + self.line(logs, self._drawn_at - self._since).ljust(COLUMNS))
        self._file.flush()

    def line(self, logs: dict[str, Any], seconds: float) -> str:
        """Return the line, without the metrics that no longer fit.

        Args:
          logs: the epoch's results so far.
          seconds: time since the epoch began.
        """
        total = self.params.get("steps")
        speed = self._made / seconds if seconds > 0 else 0.0
        parts = [f"{self._made} updates"]
        if total:
            done = min(_BAR, _BAR * self._made // total)
            left = f"{(total - self._made) / speed:.0f} s left" if speed else "?"
            parts = [f"{self._made:{len(str(total))}}/{total}", "━" * done + "─" * (_BAR - done)]
            parts += [left if self._made < total else f"{seconds:.0f} s"]
        parts.append(f"{speed:.1f}/s")
        tail = self._stragglers()
        for name, value in logs.items():
            metric = described({name: value})
            if len(" ".join([*parts, metric, *tail])) > COLUMNS:
                break
            parts.append(metric)
        return " ".join([*parts, *tail])

    def _stragglers(self) -> list[str]:
        """Return the share of unused gradients and the slowest worker, once they are known."""
        window = getattr(self._monitor, "window", None)
        if window is None:
            return []
        slowest = [] if window.slowest is None else [f"slowest: {window.slowest}"]
        return [f"late {window.late:.0%}", *slowest]


def _apart(name: str) -> bool:
    return name.startswith("val_") or name in ("updates", "seconds")
