"""The threads of a run, with plain functions instead of calls to servers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.cluster.processes import wait_until
from tf_backup.actors import run as module
from tf_backup.actors.run import Run
from tf_backup.servers.reports import Report

TIMEOUT_S = 60.0


def report(step: int) -> Report:
    return Report(step, np.array([0]), np.array([0]), f"results of {step}")


class Loop:
    """A chief's loop that makes an update when the test says so."""

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.looks = 0
        self.error: Exception | None = None  # Raised by the next look.
        self._ends = threading.Event()
        self._failure: Exception | None = None
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.run = Run(self._loop, self._read, self._note, self._look_after)

    def make(self, step: int) -> None:
        self._reports.put(report(step))

    def end(self, failure: Exception | None = None) -> None:
        self._failure = failure
        self._ends.set()
        self._reports.put(report(-1))

    def _loop(self) -> None:
        self._ends.wait(TIMEOUT_S)
        if self._failure is not None:
            raise self._failure

    def _read(self) -> list[Report]:
        found = [self._reports.get(timeout=TIMEOUT_S)]
        while not self._reports.empty():
            found.append(self._reports.get())
        return found

    def _note(self, report: Report) -> None:
        self.noted.append(report.step)

    def _look_after(self) -> Any:
        if self.error is not None:
            raise self.error
        self.looks += 1
        return f"ledger {self.looks}"


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(module, "_TICK_S", 0.01)
    loop = Loop()
    yield loop
    loop.end()
    loop.run.abandon()


def test_reports_are_noted_and_returned_in_order(loop: Loop) -> None:
    for step in range(3):
        loop.make(step)
    found = [loop.run.next_report(TIMEOUT_S) for _ in range(3)]
    assert [each.step for each in found if each] == [0, 1, 2]
    assert loop.noted == [0, 1, 2]
    assert loop.run.reports == 0
    assert loop.run.next_report(0.05) is None
    assert loop.run.goes_on


def test_the_run_is_looked_after_until_it_ends(loop: Loop) -> None:
    loop.make(0)
    while loop.looks < 2:
        loop.run.next_report(0.01)
    assert str(loop.run.ledger).startswith("ledger")
    loop.end()
    checks: list[int] = []
    loop.run.wait(lambda: checks.append(1), TIMEOUT_S)
    looks = loop.looks
    assert checks
    assert not loop.run.goes_on
    assert loop.run.next_report(0.05) is not None  # What was made before is returned still.
    assert loop.looks == looks


def test_an_error_of_the_loop_is_raised_after_its_reports(loop: Loop) -> None:
    loop.make(0)
    wait_until(lambda: loop.run.reports)
    loop.end(ValueError("the loop"))
    found = loop.run.next_report(TIMEOUT_S)
    assert found is not None
    assert found.step == 0
    with pytest.raises(ValueError, match="the loop"):
        while True:
            loop.run.next_report(0.05)


def test_an_error_of_housekeeping_ends_the_wait_for_a_report(loop: Loop) -> None:
    loop.error = RuntimeError("housekeeping")
    with pytest.raises(RuntimeError, match="housekeeping"):
        while True:
            loop.run.next_report(0.05)


def test_a_check_can_end_the_wait_for_the_end(loop: Loop) -> None:
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run.wait(check, TIMEOUT_S)


def test_an_abandoned_run_raises_nothing(loop: Loop) -> None:
    loop.run.abandon()
    loop.end(ValueError("the cluster is gone"))
    loop.run.wait(lambda: None, TIMEOUT_S)
    assert loop.run.next_report(0.05) is not None
    assert loop.run.next_report(0.05) is None


def test_what_nobody_has_read_is_there_after_the_end(loop: Loop) -> None:
    for step in range(3):
        loop.make(step)
    assert loop.run.next_report(TIMEOUT_S) == report(0)
    loop.end()
    assert loop.run.wait(lambda: None, TIMEOUT_S)
    assert [each.step for each in loop.run.unread()] == [1, 2]
    assert loop.run.unread() == []


def test_a_loop_that_fails_has_not_ended_by_itself(loop: Loop) -> None:
    loop.end(RuntimeError("lost"))
    assert not loop.run.wait(lambda: None, TIMEOUT_S)
