"""Reader of the gate's log: whom it tells, and what it knows of each gradient."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tf_backup.actors.timeline_reader import Listeners, Resolver, TimelineReader
from tf_backup.rules import protocol
from tf_backup.servers.ledger_changes import FIELDS, UPDATE
from tf_backup.timeline.schema import ACCEPTED


def row(code: int, time: int, step: int, place: int, due: int = -1) -> list[int]:
    return [code, time, time - 5, step, place, place + 10, due, 3, 1]


def test_a_delivered_gradient_is_accepted_by_its_update() -> None:
    resolver = Resolver()
    contributions, updates = resolver.resolve([row(ACCEPTED, 10, 4, 0, due=5)])
    assert (len(contributions), len(updates)) == (0, 0)
    contributions, updates = resolver.resolve([[UPDATE, 20, 15, 4, 16, 17, 1, 0, 0]])
    assert (len(contributions), len(updates)) == (0, 1)
    assert updates[0].tolist() == (1, 4, 15, 16, 17, 20)
    contributions, _ = resolver.resolve([[UPDATE, 30, 25, 5, 26, 27, 1, 0, 0]])
    assert contributions[0].tolist() == (1, 4, 5, 10, 0, ACCEPTED, 5, 10, 3)


def test_a_delivered_gradient_is_stale_if_its_run_ends() -> None:
    resolver = Resolver()
    resolver.resolve([row(ACCEPTED, 10, 4, 0, due=4)])
    contributions, _ = resolver.resolve([row(protocol.STALE, 50, 4, 0)])
    (mine,) = contributions
    assert (mine["verdict"], mine["arrived"]) == (protocol.STALE, 10)


def test_rows_that_were_dropped_leave_nothing_behind() -> None:
    resolver = Resolver()
    resolver.resolve([row(ACCEPTED, 10, 4, 0, due=4)])  # The row of its update was dropped.
    contributions, _ = resolver.resolve([[UPDATE, 30, 25, 5, 26, 27, 1, 0, 0]])
    assert not len(contributions)
    assert not resolver._delivered


class Log:
    """A log with rows that the test adds."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.dropped = 0

    def read(self) -> tuple[Any, int]:
        rows, self.rows = self.rows, []
        return np.array(rows, np.int64).reshape([-1, FIELDS]), self.dropped


class Heard:
    """A listener that counts its rows."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []
        self.ended = 0

    def __call__(self, contributions: Sequence[Any], updates: Sequence[Any]) -> None:
        self.counts.append((len(contributions), len(updates)))

    note = __call__

    def end(self) -> None:
        self.ended += 1


def test_every_listener_gets_all_rows_and_the_end() -> None:
    log, listeners, heard = Log(), Listeners(), [Heard(), Heard()]
    for each in heard:
        listeners.add(each, each.end)
    chooser: Any = Heard()
    reader = TimelineReader(log, listeners, chooser)
    log.rows = [row(ACCEPTED, 10, 4, 0, due=4), row(protocol.LATE, 11, 4, 1)]
    reader.read()
    reader.read()  # Nothing is there.
    log.rows = [[UPDATE, 20, 15, 4, 16, 17, 1, 0, 0]]
    reader.read()
    for each in (*heard, chooser):
        assert each.counts == [(1, 0), (1, 1)]
    listeners.end()
    listeners.end()
    assert [each.ended for each in heard] == [1, 1]
    log.rows = [row(protocol.LATE, 30, 5, 1)]
    reader.read()
    assert len(heard[0].counts) == 2


def test_dropped_rows_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = Log()
    reader = TimelineReader(log, Listeners())
    for dropped in (0, 3, 3, 5):
        log.dropped = dropped
        reader.read()
    assert [message.split()[0] for message in caplog.messages] == ["3", "2"]


def test_without_a_log_or_listeners_nothing_is_read() -> None:
    TimelineReader(None, Listeners()).read()
    log = Log()
    log.rows = [row(protocol.LATE, 30, 5, 1)]
    TimelineReader(log, None).read()
    assert log.rows
