"""Contribution counts of a living engine."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from tf_backup.policy import BackupPolicy
from tf_backup.records import Contributions
from tf_backup.rules import protocol
from tf_backup.servers.reports import Report

_REPORT_TIMEOUT_S = 10.0  # How long to wait for reports that have been sent.


class EngineCounts:
    """Counts of one engine, from the gate's ledger and the reports of updates.

    The ledger counts an update when it is made. The staleness of its gradients is in its report,
    which was sent just before and may not have arrived yet.

    Args:
      policy: N and b.
      ledger: function that reads the ledger, in NumPy.
    """

    def __init__(self, policy: BackupPolicy, ledger: Callable[[], protocol.Ledger]) -> None:
        self._ledger = ledger
        self._staleness: list[Counter[int]] = [Counter() for _ in range(policy.workers)]
        self._counted = 0  # Accepted gradients whose staleness is counted,
        self._waiting = 0  # and those whose reports are noted and not counted yet.
        self._noted: deque[tuple[Any, Any]] = deque()  # Places and staleness of a report.
        self._change = threading.Condition()
        self._known = protocol.new_ledger(policy.workers, policy.replicas)
        self._closed = False

    def note(self, report: Report) -> None:
        """Record an update that has been made, or is just being made."""
        if report.step >= 0:
            with self._change:
                self._noted.append((report.places, report.staleness))
                self._waiting += len(report.places)
                self._change.notify_all()

    def close(self, ledger: protocol.Ledger | None) -> None:
        """Let `read` use the ledger that was read last, or this one: the servers are lost."""
        self._closed = True
        if ledger is not None:
            self._known = ledger

    def read(self) -> Contributions:
        """Return the counts. Any thread may call this."""
        with self._change:
            if not self._closed:
                self._known = self._ledger()
            accepted = int(self._known.accepted.sum())
            self._change.wait_for(
                lambda: self._counted + self._waiting >= accepted,
                0.0 if self._closed else _REPORT_TIMEOUT_S,
            )
            while self._counted < accepted and self._noted:
                places, staleness = self._noted.popleft()
                for place, age in zip(places, staleness, strict=True):
                    self._staleness[int(place)][int(age)] += 1
                self._counted += len(places)
                self._waiting -= len(places)
            return Contributions.from_ledger(self._known, self._staleness)
