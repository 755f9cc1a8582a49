"""What the benchmark says while it runs: a line for each measurement."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from scripts.benchmarks.processes import TaskFailed


class Progress:
    """Says what is measured, and how long the rest may take.

    Args:
      total: number of measurements.
      out: where to write.
      clock: returns the time, in seconds.
    """

    def __init__(
        self, total: int, out: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._out, self._clock = total, out, clock
        self._begin, self._done = clock(), 0

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[Callable[[str], None]]:
        """Say what is measured; give a function to say what came out, or say that it failed."""
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
        """Take measurements off the list."""
        self._total -= count

    def _left(self) -> str:
        """Return how long all that is left may take, if it goes on as before."""
        if not self._done:
            return ""
        each_s = (self._clock() - self._begin) / self._done
        left_s = each_s * (self._total - self._done)
        return f", {left_s / 60:.0f} min left" if left_s >= 90 else f", {left_s:.0f} s left"

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
