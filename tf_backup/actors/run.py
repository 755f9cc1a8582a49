"""A run of the chief's loop, as the chief's process sees it: three threads and a queue."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from tf_backup._tf import runtime
from tf_backup.rules import protocol
from tf_backup.servers.reports import Report

_TICK_S = 0.5  # How often `look_after` is called.
_POLL_S = 0.05
_REST_S = 0.05  # Pause between reads of reports that nobody waits for, because each read is a call.
# How long calls may take to end by themselves, once told to. A canceled update may be half made, so
# this is longer than a server may be silent by default: its loss, or a signal, makes them fail.
_END_TIMEOUT_S = 60.0


class Run:
    """Three threads, which call the loop, read its reports, and look after the run.

    The main thread waits for none of their calls, so it sees signals whatever the servers do.

    Args:
      loop: function that makes updates until told to stop.
      read: function that waits for reports and returns those that are there.
      note: function that is called with each report.
      look_after: function that is called periodically and returns the ledger.
    """

    def __init__(
        self,
        loop: Callable[[], Any],
        read: Callable[[], list[Report]],
        note: Callable[[Report], None],
        look_after: Callable[[], protocol.Ledger],
    ) -> None:
        self.ledger: protocol.Ledger | None = None  # As of the last `look_after`.
        self.ahead = False  # Whether updates are made ahead of `next_report`.
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
                ("supervisor", self._guarded, (self._supervise,)),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def reports(self) -> int:
        """Number of reports that wait to be returned."""
        return self._reports.qsize()

    @property
    def goes_on(self) -> bool:
        """Whether the loop may still make updates."""
        return self._threads[0].is_alive()

    def next_report(self, timeout_s: float) -> Report | None:
        """Return the next report, or None if none arrives in time.

        Raises:
          tf.errors.OpError: the error that ended the loop, if any.
        """
        try:
            return self._reports.get(timeout=timeout_s)
        except queue.Empty:
            if self._error is not None:
                raise self._error from None
            return None

    def unread(self) -> list[Report]:
        """Return the reports of updates that wait to be returned, after the loop has ended."""
        found = []
        with contextlib.suppress(queue.Empty):
            while (report := self._reports.get_nowait()).step >= 0:
                found.append(report)
        return found

    def wait(self, check: Callable[[], None], timeout_s: float = _END_TIMEOUT_S) -> bool:
        """Wait until the loop has ended and its reports have been read.

        Args:
          check: function that is called repeatedly; it may raise an error to stop waiting.
          timeout_s: time after which the loop is canceled.

        Returns:
          Whether the loop has ended by itself.
        """
        deadline = time.monotonic() + timeout_s
        loop, reports, supervisor = self._threads
        while loop.is_alive() or reports.is_alive():
            loop.join(_POLL_S)
            reports.join(0 if loop.is_alive() else _POLL_S)
            check()
            if time.monotonic() > deadline:
                self._calls.cancel()
        self._ended.set()
        while supervisor.is_alive():
            supervisor.join(_POLL_S)
            check()
        return self._error is None and time.monotonic() <= deadline

    def abandon(self) -> None:
        """Cancel the threads' calls, and give them a moment to end."""
        self._ended.set()
        self._calls.cancel()
        for thread in self._threads:
            thread.join(_POLL_S)

    # ---- Threads ------------------------------------------------------------------------------

    def _guarded(self, target: Callable[[], Any]) -> None:
        """Run `target`. If it raises, keep the first error of all threads and end the others."""
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

    def _supervise(self) -> None:
        while not self._ended.wait(_TICK_S):
            self.ledger = self._look_after()
