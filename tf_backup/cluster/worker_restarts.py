"""Restarts of worker processes that end by themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tf_backup.errors import ClusterError

log = logging.getLogger(__name__)

_POLL_S = 0.5
_HEALTHY_S = 600.0  # A worker that runs for this long has its full number of restarts again.


class WorkerRestarts:
    """Thread that starts a local cluster's workers again when their processes end.

    Args:
      limit: how often each worker is started again.
      ended: returns the indices of the workers whose processes have ended by themselves.
      start: starts the process of a worker, unless it runs or was ended on purpose meanwhile.
    """

    def __init__(
        self, limit: int, ended: Callable[[], list[int]], start: Callable[[int], None]
    ) -> None:
        self._limit = limit
        self._ended, self._start = ended, start
        self._counts: dict[int, int] = {}
        self._started: dict[int, float] = {}  # When each worker was last started again.
        self._given_up: set[int] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker-restarts", daemon=True)
        if limit:
            self._thread.start()

    def stop(self) -> None:
        """Stop starting workers again."""
        self._stopped.set()
        if self._limit:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_POLL_S):
            for worker in self._ended():
                try:
                    self._restart(worker)
                except ClusterError as error:
                    log.warning("Worker %d cannot be started again: %s", worker, error)
                    self._given_up.add(worker)

    def _restart(self, worker: int) -> None:
        """Start a worker again, unless that was done too often."""
        if worker in self._given_up:
            return
        now = time.monotonic()
        healthy = now - self._started.get(worker, now) > _HEALTHY_S
        count = 1 if healthy else self._counts.get(worker, 0) + 1
        if count > self._limit:
            self._given_up.add(worker)
            log.warning(
                "The process of worker %d has ended again, after %d restarts. It is not started "
                "any more.",
                worker,
                self._limit,
            )
            return
        self._counts[worker] = count
        log.warning(
            "The process of worker %d has ended. Starting it again (%d of %d).",
            worker,
            count,
            self._limit,
        )
        self._start(worker)
        self._started[worker] = time.monotonic()
