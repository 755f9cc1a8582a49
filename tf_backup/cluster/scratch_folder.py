"""Temporary folder of a local cluster, which does not outlive its process for long."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile

_PREFIX = "tf_backup_"
_LOCK = "tf_backup.lock"  # No other program's file.


class ScratchFolder:
    """Temporary folder, private to this user, for the log files of a cluster's tasks.

    A process that is killed cannot remove its folder. Each folder has a file that its process
    holds a lock on, so the next process recognizes abandoned folders, and removes them.
    """

    def __init__(self) -> None:
        _remove_abandoned(tempfile.gettempdir())
        self.path = tempfile.mkdtemp(prefix=_PREFIX)
        # Locked before it gets its name: a folder with an unlocked file is an abandoned one.
        partial = os.path.join(self.path, f"{_LOCK}.partial")
        self._lock = os.open(partial, os.O_CREAT | os.O_RDWR, 0o600)
        with contextlib.suppress(OSError):  # Without file locks, nobody else removes it.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.rename(partial, os.path.join(self.path, _LOCK))

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_abandoned(directory: str) -> None:
    """Remove the folders of this user's processes that have ended without doing so."""
    for entry in os.scandir(directory):
        with contextlib.suppress(OSError):
            if not entry.name.startswith(_PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_uid != os.getuid():
                continue
            lock = os.open(os.path.join(entry.path, _LOCK), os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)
