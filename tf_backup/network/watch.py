"""Keeping an eye on a step that takes long."""

from __future__ import annotations

import time

FIRST_REPORT_S = 10.0  # A step that takes longer is talked about, and again at 20, 40 ...
LONGEST_SILENCE_S = 600.0


class Watch:
    """How long step t has taken, and how long it has been short of workers."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new step begins."""
        self._since = time.monotonic()
        self._short_since = self._since
        self._next_report_s = FIRST_REPORT_S

    @property
    def seconds(self) -> float:
        """How long the step has taken, in seconds."""
        return time.monotonic() - self._since

    @property
    def short_s(self) -> float:
        """How long fewer than N workers have been alive, in seconds."""
        return time.monotonic() - self._short_since

    def enough(self) -> None:
        """At least N workers are alive."""
        self._short_since = time.monotonic()

    def time_to_report(self) -> bool:
        """Returns True at 10 s, 20 s, 40 s and so on, later every ten minutes."""
        if self.seconds < self._next_report_s:
            return False
        self._next_report_s += min(self._next_report_s, LONGEST_SILENCE_S)
        return True
