"""End of a server: told by the chief, by a signal, or because the chief is gone."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

import tf_backup
from tests.cluster.forks import Program
from tests.cluster.processes import free_addresses, start
from tf_backup.network import arrivals, status

pytestmark = pytest.mark.long

BY_SIGNAL, ABANDONED = 3, 4
SOON_S = 20.0  # A server looks for the chief every 30 s; an order to end must wake it before.


class Servers:
    """Tasks of a cluster: a chief, two workers, a parameter server."""

    def __init__(self) -> None:
        chief, *workers, ps = free_addresses(4)
        self.addresses = {"chief": [chief], "worker": workers, "ps": [ps]}
        self.processes: list[Program] = []

    def run(self, job: str, index: int, program: str) -> Program:
        """Start a program as a task."""
        task = {"type": job, "index": index}
        config = json.dumps({"cluster": self.addresses, "task": task})
        begin = "import logging, tf_backup\nlogging.basicConfig(level=logging.INFO)\n"
        process = start("-c", begin + program, TF_CONFIG=config)
        self.processes.append(process)
        return process

    def start(self, job: str, index: int, before: str = "pass", **arguments: Any) -> Program:
        """Start a task that runs `before` first, and wait until it serves."""
        arguments = {"signal_exit_code": BY_SIGNAL, "lost_exit_code": ABANDONED, **arguments}
        process = self.run(job, index, f"{before}\ntf_backup.serve(**{arguments!r})")
        assert process.stderr is not None
        said: list[str] = []
        while "serves at" not in (line := process.stderr.readline()):
            assert process.poll() is None, "".join(said)
            said.append(line)
        return process


@pytest.fixture
def servers() -> Iterator[Servers]:
    cluster = Servers()
    yield cluster
    for process in cluster.processes:
        process.kill()
        process.communicate()


def check(process: Program, code: int, reason: str) -> str:
    _, log = process.communicate(timeout=60)
    assert process.returncode == code, log[-3000:]
    assert reason in log
    return log


# Registered workers are told at once; PATIENCE_S is for those that have not registered.
DISMISS = """
import time
from tf_backup.actors import coordinator
from tf_backup.cluster import dismissal
strategy = tf_backup.parameter_server_strategy()
while 1 in coordinator.of(strategy).members.missing:
    time.sleep(0.1)
dismissal.PATIENCE_S = 5.0
tf_backup.dismiss()
"""


def test_tasks_end_when_told_that_training_is_done(servers: Servers) -> None:
    there = [servers.start("ps", 0), servers.start("worker", 1)]
    chief = servers.run("chief", 0, DISMISS)
    missed = f"worker 0 ({servers.addresses['worker'][0]})"
    check(chief, 0, f"But not {missed}: down.")
    for process in there:
        check(process, 0, "ends: training is done.")


def test_tasks_that_come_later_are_told_then(servers: Servers) -> None:
    chief = servers.run("chief", 0, "print('now', flush=True)\ntf_backup.dismiss()")
    assert chief.stdout is not None
    assert chief.stdout.readline() == "now\n"
    there = [servers.start("worker", 1), servers.start("ps", 0), servers.start("worker", 0)]
    assert "But not" not in check(chief, 0, "have been told that training is done.")
    for process in there:
        check(process, 0, "ends: training is done.")


TENSORFLOWS = """
import tensorflow as tf
server = tf.distribute.Server({{"ps": [{address!r}]}}, job_name="ps", task_index=0)
print("serves", flush=True)
server.join()
"""


def test_a_server_is_ready_when_it_has_a_context_that_no_client_has_made(servers: Servers) -> None:
    # Two clients that both create the first context sometimes crash TensorFlow's server.
    servers.start("ps", 0)
    assert status.is_ready(servers.addresses["ps"][0])
    other = servers.addresses["worker"][0]
    process = servers.run("worker", 0, TENSORFLOWS.format(address=other))
    assert process.stdout is not None
    assert process.stdout.readline() == "serves\n"
    assert status.ask(other) is not None
    assert not status.is_ready(other)


def test_only_the_chief_may_dismiss(monkeypatch: pytest.MonkeyPatch, servers: Servers) -> None:
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": servers.addresses, "task": task}))
    with pytest.raises(ValueError, match="This task is worker 1; only the chief may dismiss"):
        tf_backup.dismiss()


def test_a_signal_ends_a_task(servers: Servers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process = servers.start("worker", 0)
        process.send_signal(number)
        process.wait(SOON_S)
        check(process, BY_SIGNAL, f"ends: told to by {number.name}.")


CATCHES = """
import signal, threading, time
from tf_backup.network.status import accepts

def catch():
    while not accepts({address!r}):
        time.sleep(0.01)
    time.sleep(1)  # Until the main thread waits.
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=catch, daemon=True).start()
"""


def test_a_signal_that_another_thread_catches_ends_a_task(servers: Servers) -> None:
    # The server's own threads catch it if it comes while the main thread starts them.
    address = servers.addresses["worker"][0]
    process = servers.start("worker", 0, before=CATCHES.format(address=address))
    process.wait(SOON_S)
    check(process, BY_SIGNAL, "ends: told to by SIGTERM.")


def test_a_task_ends_where_there_is_no_chief_for_long(servers: Servers) -> None:
    (chief,) = servers.addresses["chief"]
    with arrivals.present(chief):
        process = servers.start("worker", 0, chief_timeout_s=0.2)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.0)  # Ten times as long as it stays without a chief.
    check(process, ABANDONED, f"ends: there has been no chief at {chief} for ")
