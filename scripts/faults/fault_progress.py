"""Progress of a training run with faults: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_WIDTH = 30
_BAR_S = 0.2
_LINE_S = 10.0


class FaultProgress:
    """Shows the numbers of updates and faults of a training run.

    Args:
      name: name of the run.
      updates: number of updates of the run.
      faults: number of faults.
      out: file to write to.
      clock: returns the time, in seconds.
    """

    def __init__(
        self,
        name: str,
        updates: int,
        faults: int,
        out: TextIO = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._updates, self._faults = name, updates, faults
        self._out, self._clock = out, clock
        self._bar = out.isatty()
        self._shown_at = clock()
        self._line = ""

    def show(self, made: int, faults: int) -> None:
        """Show the numbers so far, if it is time."""
        now = self._clock()
        if now - self._shown_at < (_BAR_S if self._bar else _LINE_S):
            return
        self._shown_at = now
        self._line = f"{self._name}: update {made} of {self._updates}"
        if self._faults:
            self._line += f", fault {faults} of {self._faults}"
        if self._bar:
            full = round(_WIDTH * min(1.0, made / self._updates))
            self._line = f"[{'=' * full}{'.' * (_WIDTH - full)}] {self._line}"
        self._write("\r\x1b[K" + self._line if self._bar else self._line + "\n")

    def tell(self, line: str) -> None:
        """Show a line that stays, above the bar."""
        self._write(f"\r\x1b[K{line}\n{self._line}" if self._bar else line + "\n")

    def end(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
