"""Counts of an engine: the ledger's, and the staleness that reports bring."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tf_backup.actors.engine_counts import EngineCounts
from tf_backup.policy import BackupPolicy
from tf_backup.rules import protocol
from tf_backup.servers.reports import Report


class Updates:
    """A ledger of two workers; a test makes its updates, each with gradients of both."""

    def __init__(self) -> None:
        self.made = 0
        self.counts = EngineCounts(BackupPolicy(2, 0), self.read)

    def read(self) -> protocol.Ledger:
        count = np.full([2], self.made)
        return protocol.new_ledger(2)._replace(begun=count, accepted=count)

    def staleness(self) -> list[Any]:
        """Return the staleness of both, which must add up to their accepted gradients."""
        records = self.counts.read().workers
        assert all(sum(r.staleness.values()) == r.accepted for r in records)
        return [record.staleness for record in records]


def report(step: int, places: list[int], staleness: list[int]) -> Report:
    return Report(step, np.array(places), np.array(staleness), None)


def test_an_update_is_counted_when_it_is_made():
    updates = Updates()
    updates.counts.note(report(0, [0, 1], [0, 2]))  # Reported just before.
    assert updates.staleness() == [{}, {}]
    updates.made = 1
    assert updates.staleness() == [{0: 1}, {2: 1}]
    updates.counts.note(report(1, [1, 0], [1, 0]))
    updates.made = 2
    assert updates.staleness() == [{0: 2}, {1: 1, 2: 1}]


def test_the_end_of_a_run_counts_nothing():
    updates = Updates()
    updates.counts.note(report(-1, [-1, -1], [-1, -1]))
    assert updates.staleness() == [{}, {}]


def test_a_report_that_is_on_its_way_is_waited_for():
    updates = Updates()
    updates.made = 1
    found: list[Any] = []
    reading = threading.Thread(target=lambda: found.append(updates.staleness()), daemon=True)
    reading.start()
    reading.join(0.1)
    assert reading.is_alive()
    updates.counts.note(report(0, [0, 1], [0, 2]))
    reading.join(10)
    assert found == [[{0: 1}, {2: 1}]]
