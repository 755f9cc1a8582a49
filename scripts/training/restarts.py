"""Restarts of a training run whose cluster was lost, from its last checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import sys

log = logging.getLogger(__name__)

_VARIABLE = "TF_BACKUP_RESTARTS"  # "UPDATES:COUNT" of the last restart, for the next process.


def is_restart() -> bool:
    """Return whether this process is a restart."""
    return _VARIABLE in os.environ


class Restarts:
    """Count of the restarts that have brought no progress, kept across them.

    Args:
      limit: how many restarts in a row may bring no new checkpoint.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def restart(self, message: str, updates: int) -> None:
        """Begin this command again, in the same process; return if that has been tried enough.

        What this process has open is closed, so the tasks of a local cluster end.

        Args:
          message: why.
          updates: how many the last checkpoint has.
        """
        before, count = self._read()
        count = count + 1 if updates <= before else 1
        if count > self._limit:
            if self._limit:
                log.error("%d restarts in a row have made no new checkpoint.", self._limit)
            return
        log.warning(
            "%s\nStarting again %s (restart %d of %d without a new checkpoint).",
            message,
            f"from the checkpoint of {updates} updates" if updates else "from the beginning",
            count,
            self._limit,
        )
        # Until the new process listens to them, which `scripts.early` sees to.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        sys.stdout.flush()
        sys.stderr.flush()
        environment = {**os.environ, _VARIABLE: f"{updates}:{count}"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)

    def _read(self) -> tuple[int, int]:
        """Return the updates of the last restart's checkpoint, and the count until then."""
        updates, _, count = os.environ.get(_VARIABLE, "").partition(":")
        try:
            return int(updates), int(count)
        except ValueError:
            return -1, 0
