"""Calls that wait, in threads that do not keep a failed test from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any


def in_thread(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call a function in a daemon thread; return its result as a future."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def waits(*calls: Future[Any]) -> bool:
    """Return whether some of the calls have not returned within 0.2 s."""
    return bool(wait(calls, timeout=0.2).not_done)
