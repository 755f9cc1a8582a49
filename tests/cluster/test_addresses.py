"""Addresses of real processes: IPv6, and a port that another process has."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

import tf_backup
from tests.cluster.forks import Program
from tests.cluster.processes import free_addresses, start
from tests.extra import extra
from tf_backup.cluster import tf_config

pytestmark = pytest.mark.long

BEGIN = "import logging, tf_backup\nlogging.basicConfig(level=logging.INFO)\n"

TRAINS = """
import keras, numpy as np
strategy = tf_backup.parameter_server_strategy()
with strategy.scope():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(tf_backup.wrap("sgd", replicas=1), "mse")
model.fit(np.ones([8, 2]), np.ones([8, 1]), batch_size=4, verbose=0)
print("updates", int(model.optimizer.iterations), flush=True)
tf_backup.dismiss()
"""

Started = list[Program]


@pytest.fixture
def started() -> Iterator[Started]:
    processes: Started = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def run(started: Started, tasks: dict[str, list[str]], job: str, program: str) -> Program:
    config = json.dumps({"cluster": tasks, "task": {"type": job, "index": 0}})
    process = start("-c", BEGIN + program, TF_CONFIG=config)
    started.append(process)
    return process


@extra
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="This machine has no IPv6.")
def test_a_job_with_addresses_of_ipv6(started: Started) -> None:
    ports = [address.rpartition(":")[2] for address in free_addresses(3)]
    tasks = {
        job: [f"[::1]:{port}"] for job, port in zip(("chief", "worker", "ps"), ports, strict=True)
    }
    servers = [run(started, tasks, job, "tf_backup.serve()") for job in ("worker", "ps")]
    chief = run(started, tasks, "chief", TRAINS)
    out, log = chief.communicate(timeout=90)
    assert out == "updates 2\n", log[-3000:]
    for server in servers:
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0, log[-3000:]


@pytest.mark.parametrize("job", ["worker", "ps"])
def test_a_port_that_somebody_else_has(started: Started, job: str) -> None:
    tasks = dict(zip(("chief", "worker", "ps"), map(list, zip(free_addresses(3))), strict=True))
    _, _, port = tasks[job][0].rpartition(":")
    with socket.create_server(("", int(port))):
        _, log = run(started, tasks, job, "tf_backup.serve()").communicate(timeout=60)
    assert f"Cannot listen at port {port}, which TF_CONFIG gives to this task: Address " in log
    assert "End what listens there" in log
    assert "grpc" not in log.lower()


@pytest.mark.parametrize("job", ["worker", "ps"])
def test_a_local_cluster_takes_other_ports_if_somebody_was_faster(
    monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    free = tf_backup.LocalCluster._free_addresses
    chosen: list[str] = []
    with socket.create_server(("", 0)) as server:

        def taken_at_first(self: tf_backup.LocalCluster) -> tf_config.ClusterConfig:
            config = free(self)
            if not chosen:
                config.addresses[job][0] = f"localhost:{server.getsockname()[1]}"
            chosen.append(config.addresses[job][0])
            return config

        monkeypatch.setattr(tf_backup.LocalCluster, "_free_addresses", taken_at_first)
        with tf_backup.LocalCluster(workers=1, ps=1) as local:
            assert local.config.addresses[job] == chosen[1:]
        assert len(chosen) == 2
