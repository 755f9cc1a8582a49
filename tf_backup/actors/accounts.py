"""The accounts of a wrapped optimizer, while its engine lives and afterwards."""

from __future__ import annotations

import weakref
from typing import Protocol

from tf_backup.records import Contributions


class Source(Protocol):
    """What knows accounts, and who lives: an engine."""

    @property
    def living_workers(self) -> int:
        """How many workers live."""

    def contributions(self) -> Contributions:
        """Returns what became of every contribution since it was made."""

    def settle(self) -> None:
        """Waits until no update is under way."""


class Account:
    """The accounts of one source, which may be gone: then, what it told last."""

    def __init__(self, source: Source) -> None:
        self._source = weakref.ref(source)
        self._latest = source.contributions()

    def living_workers(self) -> int | None:
        """Returns how many workers live; None if the source is gone."""
        source = self._source()
        return None if source is None else source.living_workers

    def settle(self) -> None:
        """Waits until no update is under way."""
        source = self._source()
        if source is not None:
            source.settle()

    def read(self) -> Contributions:
        """Returns what became of every contribution since the source was made."""
        source = self._source()
        if source is not None:
            self._latest = source.contributions()
        return self._latest
