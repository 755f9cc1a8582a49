"""One run of the chief's loop, as the coordinator's process sees it: three threads and a queue."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from tf_backup._tf import runtime
from tf_backup.rules import protocol
from tf_backup.servers.reports import Report

_TICK_S = 0.5  # How often the chief looks after the run.
_POLL_S = 0.05
_REST_S = 0.05  # Between two readings of reports that nobody waits for: each is a call.
_END_TIMEOUT_S = 10.0


class Run:
    """Calls the loop, reads its reports and looks after it, each in a thread of its own.

    The main thread waits for none of their calls; so it sees signals, whatever the servers do.

    Args:
      loop: makes updates until it is told to stop.
      read: waits for reports, and returns those that are there.
      note: called with each report.
      look_after: called from time to time; returns the ledger.
    """

    def __init__(
        self,
        loop: Callable[[], Any],
        read: Callable[[], list[Report]],
        note: Callable[[Report], None],
        look_after: Callable[[], protocol.Ledger],
    ) -> None:
        self.ledger: protocol.Ledger | None = None  # As it was at the last look.
        self.ahead = False  # Whether updates are made that nobody waits for.
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._calls = runtime.Cancelable()
        self._read, self._note, self._look_after = read, note, look_after
        self._threads = [
            threading.Thread(target=target, args=args, name=f"tf_backup-{name}", daemon=True)
            for name, target, args in (
                ("loop", self._guarded, (lambda: self._calls(loop),)),
                ("reports", self._guarded, (self._read_reports,)),
                ("care", self._guarded, (self._take_care,)),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def reports(self) -> int:
        """How many reports wait to be returned."""
        return self._reports.qsize()

    @property
    def goes_on(self) -> bool:
        """Whether the loop may still make updates."""
        return self._threads[0].is_alive()

    def next_report(self, timeout_s: float) -> Report | None:
        """Returns the next report, or None if none has come in time.

        Raises:
          tf.errors.OpError: what has ended the loop.
        """
        try:
            return self._reports.get(timeout=timeout_s)
        except queue.Empty:
            if self._error is not None:
                raise self._error from None
            return None

    def wait(self, check: Callable[[], None], timeout_s: float = _END_TIMEOUT_S) -> None:
        """Waits until the loop has ended, and its reports are read.

        Args:
          check: called again and again; may raise an error that ends waiting.
          timeout_s: after which the loop is cut off.
        """
        deadline = time.monotonic() + timeout_s
        loop, reports, care = self._threads
        while loop.is_alive() or reports.is_alive():
            loop.join(_POLL_S)
            reports.join(0 if loop.is_alive() else _POLL_S)
            check()
            if time.monotonic() > deadline:
                self._calls.cancel()
        self._ended.set()
        while care.is_alive():
            care.join(_POLL_S)
            check()

    def abandon(self) -> None:
        """Cuts off what the threads wait for, and gives them a moment to end."""
        self._ended.set()
        self._calls.cancel()
        for thread in self._threads:
            thread.join(_POLL_S)

    # ---- Threads ------------------------------------------------------------------------------

    def _guarded(self, target: Callable[[], Any]) -> None:
        """Keeps the first error of any thread, and ends the others."""
        try:
            target()
        except BaseException as error:
            if self._error is None and not self._ended.is_set():
                self._error = error
            self._ended.set()
            self._calls.cancel()

    def _read_reports(self) -> None:
        while True:
            for report in self._calls(self._read):
                self._note(report)
                self._reports.put(report)
                if report.step < 0:  # The loop has ended.
                    return
            if self.ahead:
                self._ended.wait(_REST_S)

    def _take_care(self) -> None:
        while not self._ended.wait(_TICK_S):
            self.ledger = self._look_after()
