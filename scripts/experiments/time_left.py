"""Progress bar of an experiment, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_BAR = 20
_EVERY_S = 0.2  # Least time between two drawings in a terminal.
_LINE_EVERY_S = 10.0  # Least time between two lines elsewhere.


class TimeLeft:
    """Draws how many points are measured, and how long the others will take.

    In a terminal it draws one line again and again; elsewhere it writes a line now and then.

    Args:
      total: number of points to measure.
      out: file to write to.
      clock: function that returns the time, in seconds.
    """

    def __init__(
        self,
        total: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._clock = total, clock
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._begin = clock()
        self._drawn: float | None = None

    def at(self, done: float, what: str = "") -> None:
        """Draw the progress, if it is time.

        Args:
          done: number of points measured, with the measured part of the current one.
          what: the current point.
        """
        now = self._clock()
        every_s = _EVERY_S if self._terminal else _LINE_EVERY_S
        if self._drawn is not None and now - self._drawn < every_s and done < self._total:
            return
        self._drawn = now
        line = self.line(done, now - self._begin, what)
        self._out.write("\r" + line[:79].ljust(79) if self._terminal else line + "\n")
        self._out.flush()

    def close(self) -> None:
        """End the line."""
        if self._terminal and self._drawn is not None:
            self._out.write("\n")

    def line(self, done: float, seconds: float, what: str = "") -> str:
        """Return the line after `seconds` seconds."""
        filled = int(_BAR * done / self._total) if self._total else _BAR
        bar = "━" * filled + "─" * (_BAR - filled)
        left = ""
        if 0 < done < self._total:
            left_s = seconds / done * (self._total - done)
            left = f" {left_s / 60:.0f} min left" if left_s >= 90 else f" {left_s:.0f} s left"
        elif done:
            left = f" {seconds:.0f} s"
        return f"{bar} {int(done)}/{self._total}{left} {what}".rstrip()
