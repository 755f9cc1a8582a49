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
import uuid
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

BEAT_S = 5.0
LEASE_S = 30.0  # A holder whose lease has not changed for longer is gone.
_RELEASE_S = 5.0  # For a file system that does not answer.
_LOCK, _LEASE = "chief.lock", "chief.json"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

Lease = dict[str, Any]


class DirectoryInUse(ValueError):
    """Another process trains in the directory."""


class DirectoryLock:
    """Lock on a directory, held until `release` or the end of this process.

    A file lock keeps out other processes of this machine, and does not survive a crash. Not every
    shared volume passes such locks on to other machines, or takes them back when a machine dies. So
    the holder also changes a small file, its lease, every few seconds. Clocks are not compared:
    a process that wants the directory watches whether the lease changes.

    Args:
      directory: path of a directory that exists.
      lost: called in a thread if another process has taken the directory, which it does when this
        one has not changed its lease for `lease_s`: it was frozen, or the volume was.
      beat_s: seconds between two changes of the lease.
      lease_s: how long to watch the lease of another machine before its holder counts as gone.

    Raises:
      DirectoryInUse: if another process holds the lock. The message names it.
      OSError: if the directory cannot be written.
    """

    def __init__(
        self,
        directory: str,
        lost: Callable[[], None] = lambda: None,
        beat_s: float = BEAT_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._directory, self._lost = directory, lost
        self._path = os.path.join(directory, _LEASE)
        self._token = uuid.uuid4().hex
        self._started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._file = os.open(os.path.join(directory, _LOCK), os.O_CREAT | os.O_RDWR, 0o644)
        self._released = threading.Event()
        try:
            self._acquire(lease_s)
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
        self._thread.join(_RELEASE_S)
        with contextlib.suppress(OSError):
            if not self._is_taken():
                os.remove(self._path)
        os.close(self._file)

    # ---- Taking it ----------------------------------------------------------------------------

    def _acquire(self, lease_s: float) -> None:
        """Wait until the file lock is held, or the lease shows that its holder is gone."""
        first, deadline = self._read(), time.monotonic() + lease_s
        lease, reported = first, False
        while True:
            locked = self._lock()
            here = lease is None or lease.get("machine") == _machine()
            mine = here and lease is not None and lease.get("pid") == os.getpid()  # After exec.
            if (locked and here) or (locked is None and (lease is None or mine)):
                return
            # Without a lease, the holder of the file lock is just starting or just ending.
            late = time.monotonic() > deadline
            renewed = lease is not None and lease != first
            if renewed or (locked is False and here and (lease is not None or late)):
                raise self._refusal(lease)
            if late:
                log.info("Taking %s over: %s has not been heard of.", self._directory, _name(lease))
                return
            if not reported:
                log.info(
                    "%s was used by %s. Waiting up to %.0f s to see whether it still is.",
                    self._directory,
                    _name(lease),
                    lease_s,
                )
                reported = True
            time.sleep(min(1.0, lease_s / 10))
            with contextlib.suppress(OSError, ValueError):  # Cannot be read: not released.
                lease = self._read(strict=True)

    def _lock(self) -> bool | None:
        """Return whether this process has the file lock; None where there are no file locks."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return None
        return True

    def _refusal(self, lease: Lease | None) -> DirectoryInUse:
        started = (lease or {}).get("started", "just now")
        return DirectoryInUse(
            f"{self._directory} is in use by {_name(lease)}, started {started}. Two training runs "
            "would overwrite each other's checkpoints. End the other one, or give another "
            "--log_dir."
        )

    # ---- The lease ----------------------------------------------------------------------------

    def _read(self, strict: bool = False) -> Lease | None:
        """Return the lease; None if there is none, or, unless `strict`, none that can be read."""
        try:
            with open(self._path, encoding="utf-8") as file:
                lease = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            if strict:
                raise
            return None
        return lease if isinstance(lease, dict) else None

    def _write(self, beat: int) -> None:
        lease = {
            "machine": _machine(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._started,
            "token": self._token,
            "beat": beat,
        }
        partial = f"{self._path}.{self._token}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(lease, file)
        os.replace(partial, self._path)

    def _is_taken(self) -> bool:
        """Return whether the lease is another process'."""
        lease = self._read(strict=True)
        return lease is not None and lease.get("token") != self._token

    def _beat(self, beat_s: float) -> None:
        beat = 0
        while not self._released.wait(beat_s):
            beat += 1
            with contextlib.suppress(OSError, ValueError):  # A full disk must not end training.
                if self._is_taken():
                    log.error("Another process has taken %s over.", self._directory)
                    self._lost()
                    return
                self._write(beat)


def _machine() -> str:
    """Return what is the same for all processes of a running machine, and for no other."""
    # psutil has only the time of the start, which other machines may share.
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def _name(lease: Lease | None) -> str:
    lease = lease or {}
    return f"process {lease.get('pid', '(unknown)')} on {lease.get('host', 'this machine')}"
