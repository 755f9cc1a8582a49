"""Progress of the benchmark: one line per measurement."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from scripts.benchmarks.processes import TaskFailed


class Progress:
    """Writes what is being measured, and the time that is left.

    Args:
      total: number of measurements.
      out: file to write to.
      clock: function that returns the time, in seconds.
    """

    def __init__(
        self, total: int, out: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._out, self._clock = total, out, clock
        self._begin, self._done = clock(), 0

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[Callable[[str], None]]:
        """Write what is being measured; yield a function that writes the result."""
        self._write(f"{self._done + 1} of {self._total}{self._left()}: {what} ... ")
        try:
            yield self._write
        except TaskFailed as error:
            self._write(f"failed: {error}")
            raise
        finally:
            self._done += 1
            self._write("\n")

    def skip(self, count: int) -> None:
        """Reduce the number of measurements."""
        self._total -= count

    def _left(self) -> str:
        """Return the time left, by the average of the measurements so far."""
        if not self._done:
            return ""
        each_s = (self._clock() - self._begin) / self._done
        left_s = each_s * (self._total - self._done)
        return f", {left_s / 60:.0f} min left" if left_s >= 90 else f", {left_s:.0f} s left"

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
