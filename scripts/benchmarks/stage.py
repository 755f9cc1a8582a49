"""Systems that are kept running between their turns, as many as fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from scripts.benchmarks.running import RunningSystem
from scripts.training import memory

_RESERVE_GIB = 4.0  # For everything else on the machine.


class Stage:
    """Running systems; ends those with the oldest turn when memory runs short.

    A context manager, which ends all systems.

    Args:
      start: function that starts a system, given its name.
      needed_gib: function that returns the memory to allow for a system, given its name.
      available_gib: function that returns the available memory, in GiB.
    """

    def __init__(
        self,
        start: Callable[[str], RunningSystem],
        needed_gib: Callable[[str], float],
        available_gib: Callable[[], float] = memory.available_gib,
    ) -> None:
        self._start, self._needed_gib, self._available_gib = start, needed_gib, available_gib
        self._up: dict[str, RunningSystem] = {}  # In the order of their last turns.

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
        """Return whether a system is running."""
        return name in self._up

    def running(self, name: str) -> RunningSystem:
        """Return a system, which is started first if necessary.

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
        """End a system, if it is running."""
        if name in self._up:
            self._up.pop(name).end()

    def _has_room(self, name: str) -> bool:
        return self._available_gib() >= self._needed_gib(name) + _RESERVE_GIB
