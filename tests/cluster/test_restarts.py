"""What starts again by itself: a local cluster's workers, and a training whose cluster is lost."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tf_backup
from tests.cluster.conftest import Kept
from tests.cluster.processes import children, start_fresh, wait_until
from tests.extra import extra

pytestmark = pytest.mark.long

SCRIPT = "scripts/train.py"


@pytest.fixture(autouse=True)
def alone(kept: Kept) -> None:
    """Ends the cluster that tests share: a process cannot be the chief of two at a time."""
    kept.stop()


class Kill(keras.callbacks.Callback):  # type: ignore[misc]
    """Kills a worker's process from outside after each of some updates."""

    runs_behind = True

    def __init__(self, cluster: tf_backup.LocalCluster, updates: set[int]) -> None:
        super().__init__()
        self._cluster, self._updates = cluster, updates

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch in self._updates:
            os.kill(self._cluster.pid("worker", 0), signal.SIGKILL)


def test_a_local_worker_that_dies_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with tf_backup.LocalCluster(workers=2, ps=1) as cluster:
        with cluster.strategy().scope():
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            optimizer = tf_backup.wrap(keras.optimizers.SGD(0.01), replicas=2)
            model.compile(optimizer=optimizer, loss="mse")
        pid = cluster.pid("worker", 0)
        x = np.ones((400, 2), np.float32)
        model.fit(x, x[:, :1], batch_size=1, verbose=0, callbacks=[Kill(cluster, {10})])
        assert cluster.pid("worker", 0) != pid
        assert optimizer.contributions.total.accepted == 400
    assert "worker 0 has ended. Starting it again (1 of 3)." in caplog.text


def test_restarts_of_a_local_worker_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with tf_backup.LocalCluster(workers=1, ps=1, worker_restarts=1) as cluster:
        (exposed,) = (each for each in caplog.messages if "listen on all network inter" in each)
        ports = re.findall(r"\d+", exposed.partition("port(s)")[2])
        every = cluster.config.addresses.values()
        assert ports == [address.rpartition(":")[2] for job in every for address in job]
        first = cluster.pid("worker", 0)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: cluster.pid("worker", 0) != first)
        second = cluster.pid("worker", 0)
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: "after 1 restarts" in caplog.text)
        assert cluster.pid("worker", 0) == second
        cluster.start_task("worker", 0)  # It did not run.


def test_one_that_was_killed_on_purpose_stays_ended() -> None:
    with tf_backup.LocalCluster(workers=2, ps=1) as cluster:
        cluster.kill_task("worker", 0)
        other = cluster.pid("worker", 1)
        os.kill(other, signal.SIGKILL)
        wait_until(lambda: cluster.pid("worker", 1) != other)
        cluster.start_task("worker", 0)  # It did not run.


# ---- scripts/train.py -------------------------------------------------------------------------


class Training:
    """A training on a local cluster of two workers and one parameter server."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.summary = directory / "summary.json"
        self.logs = directory / "logs"
        self.process = start_fresh(
            SCRIPT,
            "--updates=60",
            "--updates_per_epoch=20",
            "--replicas=1",
            "--backups=1",
            "--delay=0:0.2",
            "--delay=1:0.2",
            f"--log_dir={self.logs}",
            f"--summary_json={self.summary}",
            *flags,
        )

    def read_until(self, word: str) -> str:
        """Reads what it logs, until a line has a word."""
        assert self.process.stderr is not None
        read = ""
        while word not in read:
            line = self.process.stderr.readline()
            assert line, read
            read += line
        return read

    def kill_ps(self) -> None:
        """Kills the parameter server: the first of its cluster's three tasks."""
        wait_until(lambda: len(children(self.process.pid)) == 3)  # Those before may be ending.
        os.kill(min(children(self.process.pid)), signal.SIGKILL)

    def end(self) -> str:
        """Waits for its end, and returns the rest of what it logs."""
        _, err = self.process.communicate(timeout=200)
        assert not children(self.process.pid)
        assert "Traceback" not in err
        return err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Starts trainings in one directory, and ends what a test leaves of them."""
    started: list[Training] = []

    def start(*flags: str) -> Training:
        started.append(Training(tmp_path, *flags))
        return started[-1]

    yield start
    for training in started:
        training.process.kill()
        training.process.communicate()


def test_training_goes_on_by_itself_when_its_parameter_server_dies(
    start: Callable[..., Training],
) -> None:
    training = start()
    training.read_until("updates 20")
    training.kill_ps()
    log = training.read_until("restart 1 of 3") + training.end()
    assert training.process.returncode == 0, log
    assert "Parameter server 0" in log and "Goes on after" in log
    assert "Start it again" not in log  # Nobody can: it is a process of a local cluster.
    summary = json.loads(training.summary.read_text())
    assert summary["updates"] == 60
    assert summary["updates_of_this_run"] <= 40
    with open(training.logs / "history.csv", newline="") as file:
        assert [row["updates"] for row in csv.DictReader(file)] == ["20", "40", "60"]


@extra
def test_without_progress_it_is_tried_so_often(start: Callable[..., Training]) -> None:
    training = start("--updates_per_epoch=60", "--restarts=1")
    for _ in range(2):
        training.read_until("Training small_cnn")
        training.kill_ps()
    log = training.end()
    assert training.process.returncode == 138, log
    assert "1 restarts in a row" in log


@extra
def test_two_cannot_have_one_directory(start: Callable[..., Training]) -> None:
    first = start("--updates=100000")
    first.read_until("Training small_cnn")
    second = start()
    said = second.end()
    assert second.process.returncode == 2
    assert f"is in use by process {first.process.pid} on " in said
    first.process.send_signal(signal.SIGTERM)
    first.end()
    assert first.process.returncode == 143
    assert not (first.logs / "chief.json").exists()
