"""Contribution counts of a wrapped optimizer, during and after the life of its engine."""

from __future__ import annotations

import weakref
from typing import Protocol

from tf_backup.records import Contributions


class Source(Protocol):
    """Source of contribution counts and of the number of living workers: an engine."""

    @property
    def living_workers(self) -> int:
        """Number of workers that are alive."""

    def contributions(self) -> Contributions:
        """Return the counts since this source was created."""

    def settle(self) -> None:
        """Wait until no update is in progress."""

    def read_timeline(self) -> None:
        """Hand the rows of the timeline that are there to the listeners."""


class Account:
    """Counts of one source. They stay available after the source is garbage-collected."""

    def __init__(self, source: Source) -> None:
        self._source = weakref.ref(source)
        self._latest = source.contributions()

    def living_workers(self) -> int | None:
        """Return the number of workers that are alive; None if the source is gone."""
        source = self._source()
        return None if source is None else source.living_workers

    def settle(self) -> None:
        """Wait until no update is in progress."""
        source = self._source()
        if source is not None:
            source.settle()

    def read_timeline(self) -> None:
        """Hand the rows of the timeline that are there to the listeners."""
        source = self._source()
        if source is not None:
            source.read_timeline()

    def read(self) -> Contributions:
        """Return the counts since the source was created, or the last known ones if it is gone."""
        source = self._source()
        if source is not None:
            self._latest = source.contributions()
        return self._latest
