"""Stopwatch of steps that take long."""

from __future__ import annotations

import time

FIRST_REPORT_S = 10.0  # A step that takes longer is logged, again at 20 s, 40 s ...
LONGEST_SILENCE_S = 600.0  # Between two reports, so that a log of days stays short.


class Watch:
    """Stopwatch of a step, and of the time for which it has been short of workers."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start a new step."""
        self._since = time.monotonic()
        self._short_since = self._since
        self._next_report_s = FIRST_REPORT_S

    @property
    def seconds(self) -> float:
        """Duration of the step so far, in seconds."""
        return time.monotonic() - self._since

    @property
    def short_s(self) -> float:
        """Time for which fewer than N workers have been alive, in seconds."""
        return time.monotonic() - self._short_since

    def enough(self) -> None:
        """Record that at least N workers are alive."""
        self._short_since = time.monotonic()

    def time_to_report(self) -> bool:
        """Return True at 10 s, 20 s, 40 s and so on, later every ten minutes, else False."""
        if self.seconds < self._next_report_s:
            return False
        self._next_report_s += min(self._next_report_s, LONGEST_SILENCE_S)
        return True
