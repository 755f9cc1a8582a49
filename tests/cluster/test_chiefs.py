"""Chiefs and workers that do not belong together: which are refused, with which message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.forks import Program
from tests.cluster.processes import free_addresses, start

BEGIN = "import logging, tf_backup\nlogging.basicConfig(level=logging.INFO)\n"

KEPT = """
import tensorflow as tf
from tf_backup._tf.named import Name, NamedVariable
kept = NamedVariable(0, Name("tf-backup.1", "kept"), tf.int64, [], owner=False)
"""

HOLDS = f"""
import time
strategy = tf_backup.parameter_server_strategy()
{KEPT}
kept.assign(7)
print("mine", bool(kept.exists()), flush=True)
time.sleep(600)
"""

TRIES = f"""
try:
    strategy = tf_backup.parameter_server_strategy()
except tf_backup.ClusterError as error:
    print(error, flush=True)
else:
    exec({KEPT!r})
    print("mine", bool(kept.exists()), flush=True)
"""

OTHER_TENSORFLOW = """
import tensorflow as tf
tf.__version__ = "2.7.1"
tf_backup.serve()
"""


class Tasks:
    """Processes around one parameter server that several chiefs claim."""

    def __init__(self) -> None:
        self.ps, *self.workers = free_addresses(3)
        self.processes: list[Program] = []
        self.run("ps", 0, "tf_backup.serve()")

    def run(self, job: str, index: int, program: str, workers: int = 1) -> Program:
        """Start a task that knows of `workers` workers; every chief has its own address."""
        (chief,) = free_addresses(1)
        cluster = {"chief": [chief], "worker": self.workers[:workers], "ps": [self.ps]}
        config = json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})
        process = start("-c", BEGIN + program, TF_CONFIG=config)
        self.processes.append(process)
        return process


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    made = Tasks()
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def hold(tasks: Tasks) -> Program:
    """Start a chief, and wait until it has the servers."""
    chief = tasks.run("chief", 0, HOLDS)
    assert chief.stdout is not None
    assert chief.stdout.readline() == "mine True\n"
    return chief


@pytest.mark.long
def test_a_second_chief_is_refused_until_the_first_has_died(tasks: Tasks) -> None:
    first = hold(tasks)
    said, log = tasks.run("chief", 0, TRIES).communicate(timeout=60)
    assert said.startswith("The parameter servers have a chief already: localhost:"), log[-3000:]
    assert f"process {first.pid} on " in said
    first.kill()
    said, log = tasks.run("chief", 0, TRIES).communicate(timeout=60)
    assert said == "mine False\n", log[-3000:]  # What the first one left behind is gone.
    assert "Taking over from the chief at localhost:" in log
    assert log.count("listen on all network interfaces: keep others away from port(s)") == 1


def test_a_worker_with_another_tensorflow_is_refused(tasks: Tasks) -> None:
    hold(tasks)
    worker = tasks.run("worker", 0, OTHER_TENSORFLOW)
    _, log = worker.communicate(timeout=60)
    assert worker.returncode == 2, log[-3000:]
    assert "listen on all network interfaces: keep others away from port(s)" in log
    assert "worker 0 has TensorFlow 2.7.1, but its chief (localhost:" in log
    assert "Install the same version everywhere." in log


def test_a_worker_of_another_cluster_is_refused(tasks: Tasks) -> None:
    hold(tasks)
    worker = tasks.run("worker", 0, "tf_backup.serve()", workers=2)
    _, log = worker.communicate(timeout=60)
    assert worker.returncode == 2, log[-3000:]
    assert "TF_CONFIG of worker 0 has 2 workers, but that of its chief (localhost:" in log
    assert "has 1: give all tasks the same cluster." in log


@pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)
def test_a_process_is_the_chief_of_one_cluster_at_a_time(strategy: Any) -> None:
    refused = pytest.raises(ValueError, match="is the chief of a cluster already, as localhost:")
    with tf_backup.LocalCluster(1) as second, refused:
        second.strategy()
    with strategy.scope():
        variable = tf.Variable(3.0)  # The first cluster is as it was.
    assert float(variable.read_value()) == 3.0
