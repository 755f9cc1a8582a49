"""Processes of a local cluster."""

from __future__ import annotations

import os
import re

import psutil

from scripts.faults.fault import Target

_FORK_SERVER = "tf_backup.cluster.fork_server"
_LOG = re.compile(r"(worker|ps)(\d+)\.log")  # Names of the files that tasks write to.
_STDOUT = 1


def find(chief: int, target: Target) -> psutil.Process | None:
    """Return a task of a chief's local cluster, or the chief; None if it does not run."""
    return tasks_of(chief).get(target)


def tasks_of(chief: int) -> dict[Target, psutil.Process]:
    """Return the processes of a chief and of the tasks of its local cluster that run.

    A task is a child of a fork server, which is a child of the chief. Which task it is, the name of
    its output file tells.

    Args:
      chief: process id of the chief.
    """
    try:
        process = psutil.Process(chief)
        children = process.children()
    except psutil.NoSuchProcess:
        return {}
    found = {Target("chief"): process} if _runs(process) else {}
    tasks = [task for child in children if _is_fork_server(child) for task in _children(child)]
    # The newest come last: after a restart of the chief's program, older tasks may be ending.
    for task in sorted(tasks, key=psutil.Process.create_time):
        known = _LOG.fullmatch(_output(task))
        if known and _runs(task):
            found[Target(known[1], int(known[2]))] = task
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _is_fork_server(process: psutil.Process) -> bool:
    try:
        return _FORK_SERVER in process.cmdline()
    except psutil.Error:
        return False


def _output(process: psutil.Process) -> str:
    """Return the name of the file that a process writes to; "" if it writes to none."""
    try:
        files: dict[int, str] = {file.fd: file.path for file in process.open_files()}
    except psutil.Error:
        return ""
    return os.path.basename(files.get(_STDOUT, ""))
