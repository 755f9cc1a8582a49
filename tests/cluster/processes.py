"""Processes that tests start and watch, without a package for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import forks
from tf_backup.network.free_ports import free_ports

ROOT = Path(__file__).parents[2]
MARK = "TF_BACKUP_TEST_MARK"  # Environment variable of processes that tests look for.


def children(parent: int | None = None) -> list[int]:
    """Return the running tasks of a process' local clusters (default: this process)."""
    parents = _fork_servers()
    parent = os.getpid() if parent is None else parent
    return [pid for pid, above in parents.items() if parents.get(above) == parent]


def _fork_servers() -> dict[int, int]:
    """Return the running fork servers and tasks of local clusters, and their parents."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z" and "tf_backup.cluster.fork_server" in command:
            found[int(entry.name)] = int(fields[1])
    return found


def running(pid: int) -> bool:
    """Return whether a process is running and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for a condition, and fail if it does not become true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.01)


def environment(**changes: str) -> dict[str, str]:
    """Return this process' environment with changes, for a program of the project."""
    result = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**result, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **changes}


def start(*command: str, **changes: str) -> forks.Program:
    """Start a Python program of the project as a fork that has imported TensorFlow."""
    return forks.start(command, str(ROOT), environment(**changes))


def start_fresh(*command: str, **changes: str) -> subprocess.Popen[str]:
    """Start a Python program of the project as users do, from its first line."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_addresses(count: int) -> list[str]:
    """Return addresses that no process listens at."""
    return [f"localhost:{port}" for port in free_ports(count)]


def marked(mark: str) -> list[int]:
    """Return the processes that have a mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in variables:
                found.append(int(entry.name))
    return found
