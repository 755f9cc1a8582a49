"""Processes that tests start and watch."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.cluster import forks
from tf_backup.network.free_ports import free_ports

ROOT = Path(__file__).parents[2]
MARK = "TF_BACKUP_TEST_MARK"  # Environment variable of processes that tests look for.


def children(parent: int | None = None) -> list[int]:
    """Return the running tasks of a process' local clusters (default: this process)."""
    servers = _of_clusters(os.getpid() if parent is None else parent)
    return [task.pid for server in servers for task in _of_clusters(server.pid)]


def _of_clusters(parent: int) -> list[psutil.Process]:
    """Return the children of a process that are fork servers, or forks, of local clusters."""
    try:
        return list(filter(_is_of_cluster, psutil.Process(parent).children()))
    except psutil.NoSuchProcess:
        return []


def _is_of_cluster(process: psutil.Process) -> bool:
    try:
        return "tf_backup.cluster.fork_server" in process.cmdline()
    except psutil.NoSuchProcess:  # Or a zombie, which has no command line.
        return False


def running(pid: int) -> bool:
    """Return whether a process is running and not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
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
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
    return found
