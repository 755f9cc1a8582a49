"""The systems that are up, as many as the memory has room for."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from scripts import memory
from scripts.benchmarks.running import RunningSystem

_RESERVE_GIB = 4.0  # For all else on the machine.


class Stage:
    """Keeps systems up between their turns, while memory allows; a context, which ends them all.

    Args:
      start: starts a system by its name.
      needed_gib: says how much memory it may need.
      available_gib: says how much there is; None if nobody knows.
    """

    def __init__(
        self,
        start: Callable[[str], RunningSystem],
        needed_gib: Callable[[str], float],
        available_gib: Callable[[], float | None] = memory.available_gib,
    ) -> None:
        self._start, self._needed_gib, self._available_gib = start, needed_gib, available_gib
        self._up: dict[str, RunningSystem] = {}  # The one whose turn was longest ago comes first.

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for system in self._up.values():
            system.let_end()
        for name in list(self._up):
            self.end(name)

    def is_up(self, name: str) -> bool:
        """Return whether a system is up."""
        return name in self._up

    def running(self, name: str) -> RunningSystem:
        """Return a system that is up, started if need be in the place of others.

        Raises:
          TaskFailed: if it cannot be started.
        """
        if name not in self._up:
            while self._up and not self._has_room(name):
                self.end(next(iter(self._up)))
            self._up[name] = self._start(name)
        self._up[name] = self._up.pop(name)
        return self._up[name]

    def end(self, name: str) -> None:
        """End a system, if it is up."""
        if name in self._up:
            self._up.pop(name).end()

    def _has_room(self, name: str) -> bool:
        available = self._available_gib()
        return available is None or available >= self._needed_gib(name) + _RESERVE_GIB
