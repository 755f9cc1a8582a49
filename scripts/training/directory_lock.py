"""Lock on the directory of a training run: one chief at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from typing import Any

log = logging.getLogger(__name__)

BEAT_S = 5.0
LEASE_S = 30.0  # A holder whose lease has not changed for longer is gone.
_LOCK, _LEASE = "chief.lock", "chief.json"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class DirectoryLock:
    """Lock on a directory, held until `release` or the end of this process.

    A lock of the file system keeps out other processes of this machine, and does not survive a
    crash. Not every shared volume passes such locks on to other machines, so the holder also
    changes a lease, a small file, every few seconds. Clocks are not compared: who wants the
    directory watches whether the lease changes.

    Args:
      directory: path of a directory that exists.
      beat_s: seconds between two changes of the lease.
      lease_s: how long to watch the lease of a holder on another machine.

    Raises:
      ValueError: if another process holds the lock. The message names it.
      OSError: if the directory cannot be written.
    """

    def __init__(self, directory: str, beat_s: float = BEAT_S, lease_s: float = LEASE_S) -> None:
        self._directory = directory
        self._lease = os.path.join(directory, _LEASE)
        self._file = os.open(os.path.join(directory, _LOCK), os.O_CREAT | os.O_RDWR, 0o644)
        self._released = threading.Event()
        try:
            self._lock()
            self._outwait(lease_s)
            self._write(0)
        except BaseException:
            os.close(self._file)
            raise
        self._thread = threading.Thread(
            target=self._beat, args=(beat_s,), name="directory-lock", daemon=True
        )
        self._thread.start()

    def release(self) -> None:
        """Give the directory up."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            os.remove(self._lease)
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(self._read()) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            log.warning("%s has no file locks; only its %s is used.", self._directory, _LEASE)

    def _outwait(self, lease_s: float) -> None:
        """Wait until the lease of a holder on another machine has not changed for long enough."""
        first = self._read()
        if first is None or first.get("host") == socket.gethostname():
            return  # One on this machine has ended, or its lock would be there.
        log.info(
            "%s was used by process %s on %s. Waiting up to %.0f s to see whether it still is.",
            self._directory,
            first.get("pid"),
            first.get("host"),
            lease_s,
        )
        deadline = time.monotonic() + lease_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, lease_s / 10))
            now = self._read()
            if now is None:
                return
            if now != first:
                raise self._refusal(now)

    def _refusal(self, holder: dict[str, Any] | None) -> ValueError:
        holder = holder or {}
        return ValueError(
            f"{self._directory} is in use by process {holder.get('pid', '(unknown)')} on "
            f"{holder.get('host', 'this machine')}, started {holder.get('started', 'just now')}. "
            "Two training runs would overwrite each other's checkpoints. End the other one, or "
            "give another --log_dir."
        )

    def _read(self) -> dict[str, Any] | None:
        """Return the lease, or None if there is none that can be read."""
        try:
            with open(self._lease, encoding="utf-8") as file:
                lease = json.load(file)
        except (OSError, ValueError):
            return None
        return lease if isinstance(lease, dict) else None

    def _write(self, beat: int) -> None:
        lease = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "beat": beat,
        }
        if beat == 0:
            self._started = lease["started"]
        lease["started"] = self._started
        partial = f"{self._lease}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(lease, file)
        os.replace(partial, self._lease)

    def _beat(self, beat_s: float) -> None:
        beat = 0
        while not self._released.wait(beat_s):
            beat += 1
            with contextlib.suppress(OSError):  # A full disk costs the lease, not the training.
                self._write(beat)
