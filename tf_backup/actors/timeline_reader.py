"""Reader of the gate's log, which turns its rows into those of a timeline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tf_backup.actors.replicas_chooser import ReplicasChooser
from tf_backup.rules import protocol
from tf_backup.servers.arrival_log import ArrivalLog
from tf_backup.servers.ledger_changes import UPDATE, ContributionRow, UpdateRow
from tf_backup.timeline.schema import CONTRIBUTION, UNKNOWN, Rows
from tf_backup.timeline.schema import UPDATE as UPDATE_ROW

log = logging.getLogger(__name__)

Listener = Callable[[Rows, Rows], None]  # Gets rows of CONTRIBUTION, and rows of UPDATE.


class Listeners:
    """Functions that get the rows of an optimizer's timeline while it trains."""

    def __init__(self) -> None:
        self._listeners: list[tuple[Listener, Callable[[], None]]] = []

    def add(self, listener: Listener, ended: Callable[[], None]) -> None:
        """Add a listener, and a function to call after its last rows."""
        self._listeners = [*self._listeners, (listener, ended)]

    def __call__(self, contributions: Rows, updates: Rows) -> None:
        """Call the listeners with rows, in the order in which things happened."""
        for listener, _ in self._listeners:
            listener(contributions, updates)

    def end(self) -> None:
        """Remove all listeners, after their last rows."""
        listeners, self._listeners = self._listeners, []
        for _, ended in listeners:
            ended()


class TimelineReader:
    """Reads the log of one engine, and hands its rows to listeners. Any thread may call it.

    Args:
      log: the gate's log; None if it has none.
      listeners: get the rows.
      chooser: gets them, too; None if N is fixed.
    """

    def __init__(
        self,
        log: ArrivalLog | None,
        listeners: Listeners | None,
        chooser: ReplicasChooser | None = None,
    ) -> None:
        self._log = log
        self._chooser = chooser
        self._listeners = listeners
        self._resolver = Resolver()
        self._dropped = 0
        self._lock = threading.Lock()

    def read(self) -> None:
        """Read the rows that are there."""
        if self._log is None or self._listeners is None:
            return
        with self._lock:
            raw, dropped = self._log.read()
            if dropped > self._dropped:
                log.warning(
                    "%d rows of the timeline were dropped, because this process did not read them "
                    "for long. Training and its counts are not affected.",
                    dropped - self._dropped,
                )
                self._dropped = dropped
            if len(raw):
                rows = self._resolver.resolve(raw)
                self._listeners(*rows)
                if self._chooser is not None:
                    self._chooser.note(*rows)


class Resolver:
    """Resolves what became of each contribution.

    One that was delivered is accepted when its update is made, or stale if its run ends before.
    """

    def __init__(self) -> None:
        # By place, in order; often one each.
        self._delivered: dict[int, list[ContributionRow]] = {}

    def resolve(self, raw: Iterable[Any]) -> tuple[Rows, Rows]:
        """Return the rows of contributions whose fate is known now, and those of updates.

        Args:
          raw: [n, FIELDS] rows of the log, in order: those of `LedgerChanges`.
        """
        contributions: list[tuple[int, ...]] = []
        updates: list[tuple[int, ...]] = []
        for numbers in np.asarray(raw).tolist():
            if numbers[0] == UPDATE:
                made = UpdateRow(*numbers[: len(UpdateRow._fields)])
                updates.append(
                    (made.run, made.step, made.began, made.taken, made.applied, made.released)
                )
                contributions += self._used(made.step)
                continue
            row = ContributionRow(*numbers)
            if row.verdict == protocol.ACCEPTED:
                self._delivered.setdefault(row.place, []).append(row)
            elif row.verdict == protocol.STALE and self._delivered.get(row.place):
                contributions.append(_ended(self._delivered[row.place].pop(0), protocol.STALE))
            else:
                contributions.append(_ended(row, row.verdict))
        return np.array(contributions, CONTRIBUTION), np.array(updates, UPDATE_ROW)

    def _used(self, step: int) -> list[tuple[int, ...]]:
        """Return the rows of the contributions that the update from a step has used."""
        waiting = [row for rows in self._delivered.values() for row in rows]
        used = [row for row in waiting if row.due == step]
        self._delivered = {}
        for row in waiting:
            if row.due > step:
                self._delivered.setdefault(row.place, []).append(row)
        return [_ended(row, protocol.ACCEPTED, step) for row in used]


def _ended(row: ContributionRow, verdict: int, update: int = UNKNOWN) -> tuple[int, ...]:
    """Return a row of CONTRIBUTION."""
    where = (row.run, row.step, update, row.worker, row.place)
    return (*where, verdict, row.began, row.ended, row.compute)
