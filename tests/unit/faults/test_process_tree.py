"""Tasks of a local cluster, with processes that stand in for them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scripts.faults.fault import Target
from scripts.faults.process_tree import find, tasks_of
from scripts.training.worker_networks import forwarded
from tf_backup.cluster import worker_routes

pytestmark = pytest.mark.slow

CHIEF = """
import subprocess, sys
program, name, *clusters = sys.argv[1:]
servers = []
for outputs in clusters:
    command = [sys.executable, "-c", program, name, *outputs.split(",")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    servers.append(subprocess.Popen(command, text=True, **pipes))
    print(servers[-1].stdout.readline(), end="", flush=True)
sys.stdin.read()
for server in servers:
    server.communicate()
"""
SERVER = """
import subprocess, sys
tasks = [subprocess.Popen(["sleep", "60"], stdout=open(name, "w")) for name in sys.argv[2:]]
print(*[task.pid for task in tasks], flush=True)
sys.stdin.read()
for task in tasks:
    task.kill()
    task.wait()
"""


@contextlib.contextmanager
def chief_of(
    folder: Path, *clusters: str, name: str = "tf_backup.cluster.fork_server"
) -> Iterator[tuple[int, list[int]]]:
    """Yield the id of a process, and the ids of its children's children.

    Args:
      folder: directory for their output files.
      *clusters: for each of its children, the names of these files.
      name: name of the program that the children run.
    """
    command = [sys.executable, "-c", CHIEF, SERVER, name, *clusters]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, text=True, **pipes) as process:
        lines = [process.stdout.readline() for _ in clusters]
        yield process.pid, [int(word) for line in lines for word in line.split()]


def test_tasks_are_named_by_their_output_files(tmp_path: Path) -> None:
    with chief_of(tmp_path, "worker0.log,ps1.log,other.txt") as (chief, (worker, ps, _)):
        found = {str(target): process.pid for target, process in tasks_of(chief).items()}
        assert found == {"chief": chief, "worker 0": worker, "ps 1": ps}
        assert find(chief, Target("worker", 2)) is None
        chosen = find(chief, Target("worker", 0))
        assert chosen == psutil.Process(worker)
    assert not chosen.is_running()
    assert find(chief, Target("chief")) is None


def test_a_network_is_named_by_its_worker() -> None:
    with forwarded(True):
        worker_routes.of_worker(2, ["localhost:1"])
        found = {str(target): process for target, process in tasks_of(os.getpid()).items()}
        assert found["network 2"] in psutil.Process().children()
    assert "network 2" not in map(str, tasks_of(os.getpid()))


def test_other_programs_have_no_tasks(tmp_path: Path) -> None:
    with chief_of(tmp_path, "worker0.log", name="another") as (chief, _):
        assert list(tasks_of(chief)) == [Target("chief")]


def test_of_two_tasks_of_one_name_the_newer_counts(tmp_path: Path) -> None:
    with chief_of(tmp_path, "worker0.log", "worker0.log") as (chief, (_, newer)):
        assert tasks_of(chief)[Target("worker", 0)].pid == newer


def test_a_task_that_was_killed_does_not_run(tmp_path: Path) -> None:
    with chief_of(tmp_path, "worker0.log,worker1.log") as (chief, (first, _)):
        killed = psutil.Process(first)
        killed.kill()
        while killed.status() != psutil.STATUS_ZOMBIE:  # Its parent does not wait for it.
            pass
        assert list(tasks_of(chief)) == [Target("chief"), Target("worker", 1)]
