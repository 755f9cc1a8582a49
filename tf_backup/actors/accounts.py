"""Contribution counts of a wrapped optimizer, during and after the life of its engine."""

from __future__ import annotations

import weakref

from tf_backup.actors.engine import Engine
from tf_backup.records import Contributions


class Account:
    """Counts of one engine. They stay available after the engine is garbage-collected."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self._latest = engine.contributions()

    def living_workers(self) -> int | None:
        """Return the number of workers that are alive; None if the engine is gone."""
        engine = self._engine()
        return None if engine is None else engine.living_workers

    def settle(self) -> None:
        """Wait until no update is in progress."""
        engine = self._engine()
        if engine is not None:
            engine.settle()

    def read_timeline(self) -> None:
        """Hand the rows of the timeline that are there to the listeners."""
        engine = self._engine()
        if engine is not None:
            engine.read_timeline()

    def read(self) -> Contributions:
        """Return the counts since the engine was created, or the last known ones if it is gone."""
        engine = self._engine()
        if engine is not None:
            self._latest = engine.contributions()
        return self._latest
