"""Whose run the workers of a strategy are in: they run one loop at a time."""

from __future__ import annotations

import weakref
from typing import Any, Protocol


class Run(Protocol):
    """What has the workers."""

    def end(self) -> None:
        """Sends them home, and calls `ended`."""


_running: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()


def begin(strategy: Any, run: Run) -> None:
    """Notes that `run` has the workers, after it has taken them from whoever had them."""
    interrupt(strategy)
    _running[strategy] = run


def interrupt(strategy: Any) -> None:
    """Ends the run that the workers are in, if there is one.

    They would be waiting for its next step for ever; who makes that step begins again.
    """
    run = _running.pop(strategy, None)
    if run is not None:
        run.end()


def ended(strategy: Any, run: Run) -> None:
    """Notes that `run` does not have the workers any more."""
    if _running.get(strategy) is run:
        del _running[strategy]
