"""Processes of a local cluster, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

from scripts.faults.fault import Target

_FORK_SERVER = b"tf_backup.cluster.fork_server"
_LOG = re.compile(r"(worker|ps)(\d+)\.log")  # Names of the files that tasks write to.


class TaskProcess:
    """Handle of a process, which keeps meaning this one when its id is used again.

    Args:
      pid: process id.

    Raises:
      ProcessLookupError: if there is no such process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def __del__(self) -> None:
        """Close the handle."""
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has exited."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)


def find(chief: int, target: Target) -> TaskProcess | None:
    """Return a task of a chief's local cluster, or the chief; None if it does not run."""
    pid = tasks_of(chief).get(target)
    if pid is None:
        return None
    try:
        process = TaskProcess(pid)
    except ProcessLookupError:
        return None
    # If the process has exited meanwhile, the handle may be of another one with the same id.
    return process if tasks_of(chief).get(target) == pid else None


def tasks_of(chief: int) -> dict[Target, int]:
    """Return the process ids of a chief and of the tasks of its local cluster that run.

    A task is a child of a fork server, which is a child of the chief. Which task it is, the name of
    its output file tells.

    Args:
      chief: process id of the chief.
    """
    parents = _parents()
    servers = [pid for pid, above in parents.items() if above == chief and _is_fork_server(pid)]
    # The newest come last: after a restart of the chief's program, older tasks may be ending.
    found = {Target("chief"): chief} if chief in parents else {}
    for pid in sorted((pid for pid, above in parents.items() if above in servers), key=_started):
        known = _LOG.fullmatch(_output(pid))
        if known:
            found[Target(known[1], int(known[2]))] = pid
    return found


def _parents() -> dict[int, int]:
    """Return the parent of each process that runs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[0] not in ("Z", "X"):
                found[int(entry.name)] = int(fields[1])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _is_fork_server(pid: int) -> bool:
    try:
        return _FORK_SERVER in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _output(pid: int) -> str:
    """Return the name of the file that a process writes to."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/fd/1"))
    except OSError:
        return ""
