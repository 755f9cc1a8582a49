"""How a server ends: told by the chief, by a signal, or because there is no chief any more."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.processes import free_addresses, start, wait_until
from tf_backup import departures
from tf_backup.failures import answers

BY_SIGNAL, ABANDONED = 3, 4


class Servers:
    """Tasks of a cluster whose chief is this test."""

    def __init__(self) -> None:
        chief, *workers, ps = free_addresses(4)
        self.addresses = {"chief": [chief], "worker": workers, "ps": [ps]}
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, job: str, index: int, **arguments: Any) -> subprocess.Popen[str]:
        """Starts a task, and waits until it serves."""
        arguments = {"status": BY_SIGNAL, "abandoned": ABANDONED, **arguments}
        program = (
            "import logging, tf_backup; logging.basicConfig(level=logging.INFO); "
            f"tf_backup.serve(**{arguments!r})"
        )
        task = {"type": job, "index": index}
        config = json.dumps({"cluster": self.addresses, "task": task})
        process = start("-c", program, TF_CONFIG=config)
        self.processes.append(process)
        wait_until(lambda: answers(self.addresses[job][index]) or process.poll() is not None)
        return process


@pytest.fixture
def servers() -> Iterator[Servers]:
    cluster = Servers()
    yield cluster
    for process in cluster.processes:
        process.kill()
        process.communicate()


def check(process: subprocess.Popen[str], code: int, reason: str) -> None:
    _, log = process.communicate(timeout=60)
    assert process.returncode == code, log[-3000:]
    assert reason in log


def test_tasks_end_when_told_that_training_is_done(servers: Servers) -> None:
    there = [servers.start("ps", 0), servers.start("worker", 1)]
    others = {job: servers.addresses[job] for job in ("ps", "worker")}
    assert departures.dismiss(others) == [f"worker 0 ({others['worker'][0]})"]
    for process in there:
        check(process, 0, "ends: training is done.")


def test_a_signal_ends_a_task(servers: Servers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process = servers.start("worker", 0)
        process.send_signal(number)
        check(process, BY_SIGNAL, f"ends: told to by {number.name}.")


def test_a_task_ends_where_there_is_no_chief_for_long(servers: Servers) -> None:
    process = servers.start("worker", 0, chief_timeout_s=0.1)
    (chief,) = servers.addresses["chief"]
    check(process, ABANDONED, f"ends: there has been no chief at {chief} for ")
