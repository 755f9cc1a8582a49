"""Registry of the run that owns a strategy's workers, which run one loop at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

End = Callable[[], None]  # Stops the workers of a run, and calls `ended`.

_running: weakref.WeakKeyDictionary[Any, End] = weakref.WeakKeyDictionary()


def begin(strategy: Any, end: End) -> None:
    """End the run that owns the workers, if any, and register a new one by its `end`."""
    interrupt(strategy)
    _running[strategy] = end


def interrupt(strategy: Any) -> None:
    """End the run that owns the workers, if any.

    Otherwise they would wait for its next step for ever. Whoever makes that step begins a new run.
    """
    end = _running.pop(strategy, None)
    if end is not None:
        end()


def ended(strategy: Any, end: End) -> None:
    """Record that the run with this `end` no longer owns the workers."""
    if _running.get(strategy) == end:
        del _running[strategy]
