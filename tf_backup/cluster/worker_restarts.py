"""Restarts of worker processes that end by themselves."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_POLL_S = 0.5


class WorkerRestarts:
    """Thread that starts a local cluster's workers again when their processes end.

    Args:
      limit: how often each worker is started again.
      ended: returns the indices of the workers whose processes have ended by themselves.
      start: starts the process of a worker.
    """

    def __init__(
        self, limit: int, ended: Callable[[], list[int]], start: Callable[[int], None]
    ) -> None:
        self._limit = limit
        self._ended, self._start = ended, start
        self._counts: collections.Counter[int] = collections.Counter()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker-restarts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Start no worker again from now on."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_POLL_S):
            for worker in self._ended():
                if self._counts[worker] > self._limit:
                    continue
                self._counts[worker] += 1
                if self._counts[worker] > self._limit:
                    log.warning(
                        "The process of worker %d has ended again, after %d restarts. It is not "
                        "started any more.",
                        worker,
                        self._limit,
                    )
                    continue
                log.warning(
                    "The process of worker %d has ended. Starting it again (%d of %d).",
                    worker,
                    self._counts[worker],
                    self._limit,
                )
                self._start(worker)
