"""Processes of a local cluster."""

from __future__ import annotations

import os
import re

import psutil

from scripts.faults.fault import NETWORK, Target
from scripts.training.worker_networks import FORWARDER

_FORK_SERVER = "tf_backup.cluster.fork_server"
_LOG = re.compile(r"(worker|ps)(\d+)\.log")  # Names of the files that tasks write to.
_STDOUT = 1


def find(chief: int, target: Target) -> psutil.Process | None:
    """Return a task of a chief's local cluster, a network, or the chief; None if not there."""
    return tasks_of(chief).get(target)


def tasks_of(chief: int) -> dict[Target, psutil.Process]:
    """Return the processes of a chief, and of the tasks and networks of its local cluster.

    A task is a child of a fork server, which is a child of the chief. Which task it is, the name of
    its output file tells. A network is a child of the chief that runs a forwarder.

    Args:
      chief: process id of the chief.
    """
    try:
        process = psutil.Process(chief)
        children = process.children()
    except psutil.NoSuchProcess:
        return {}
    found = {Target("chief"): process} if _runs(process) else {}
    commands = [(child, _command(child)) for child in children]
    for child, command in commands:
        if str(FORWARDER) in command:
            found[Target(NETWORK, int(command[command.index(str(FORWARDER)) + 1]))] = child
    servers = [child for child, command in commands if _FORK_SERVER in command]
    tasks = [task for server in servers for task in _children(server)]
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


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _output(process: psutil.Process) -> str:
    """Return the name of the file that a process writes to; "" if it writes to none."""
    try:
        files: dict[int, str] = {file.fd: file.path for file in process.open_files()}
    except psutil.Error:
        return ""
    return os.path.basename(files.get(_STDOUT, ""))
