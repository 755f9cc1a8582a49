"""Registry of the run that owns a strategy's workers, which run one loop at a time."""

from __future__ import annotations

import weakref
from typing import Any, Protocol


class Run(Protocol):
    """A run that owns the workers of a strategy."""

    def end(self) -> None:
        """Stop the workers, and call `ended`."""


_running: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()


def begin(strategy: Any, run: Run) -> None:
    """End the run that owns the workers, if any, and make `run` their owner."""
    interrupt(strategy)
    _running[strategy] = run


def interrupt(strategy: Any) -> None:
    """End the run that owns the workers, if any.

    Otherwise they would wait for its next step for ever. Whoever makes that step begins a new run.
    """
    run = _running.pop(strategy, None)
    if run is not None:
        run.end()


def ended(strategy: Any, run: Run) -> None:
    """Record that `run` no longer owns the workers."""
    if _running.get(strategy) is run:
        del _running[strategy]
