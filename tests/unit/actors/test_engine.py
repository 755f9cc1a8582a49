"""The engine, with one device as the server and threads as workers: runs, steps and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.cluster.processes import wait_until
from tests.unit.actors.one_process import SPEC, Cluster, descent
from tf_backup._tf.named import Name
from tf_backup.actors import current_run
from tf_backup.actors.engine import Engine
from tf_backup.errors import WorkerFailed
from tf_backup.policy import BackupPolicy
from tf_backup.worker_data import Pipelines, WorkerData

pytestmark = pytest.mark.slow  # Computes for seconds.


class Training:
    """An engine with N = 2 and b = 0 on a weight, from which each update subtracts a mean."""

    def __init__(self, name: Name, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.cluster = Cluster(2, name, monkeypatch)
        self.weight, self.seen = tf.Variable(100.0), tf.Variable(0.0)
        objective = descent(self.weight, self.seen)
        self.engine = Engine(
            self.cluster.strategy, BackupPolicy(2), objective, SPEC, stall_timeout_s=60.0, **options
        )

    def step(self, **options: Any) -> list[float] | None:
        results = self.engine.step(**options)
        return results and [float(results["weight before"]), float(results["seen"])]

    def make_three(self) -> list[float] | None:
        """Let a run make its three updates, and return the result of the first."""
        self.engine.begin(numbers(1, 1, repeat=True), step=0)
        result = self.step(ahead=3, last=True)
        wait_until(lambda: float(self.weight) == 97)
        return result


def numbers(*values: float, repeat: bool = False) -> Pipelines:
    """Return data of which worker i gets every second number, from number i on."""
    dataset = tf.data.Dataset.from_tensor_slices(np.float32(values))
    return WorkerData(dataset, workers=2, repeat=repeat).start()


@pytest.fixture
def training(one_device: Name, monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(one_device, monkeypatch)


def test_updates_runs_and_counts(training: Training) -> None:
    engine = training.engine
    assert not engine.active
    engine.begin(numbers(1, 3, 10, 30), step=0)
    assert engine.active
    with pytest.raises(RuntimeError, match="A run is on already"):
        engine.begin(numbers(1, 3), step=0)
    assert [training.step() for _ in range(2)] == [[100, 2], [98, 4]]
    assert float(training.weight) == 100 - 2 - 20
    assert training.step() is None  # The data have ended.
    engine.end()
    training.cluster.join()
    # Many updates ahead, with a last one.
    engine.begin(numbers(2, 4, repeat=True), step=0)
    assert [training.step(ahead=3 - made, last=True) for made in range(3)] == [
        [78, 6], [75, 8], [72, 10],
    ]  # fmt: skip
    assert not engine.active
    training.cluster.join()
    engine.close()
    total = engine.contributions().total
    assert (total.accepted, total.computed) == (10, 10)
    # Steps are never repeated.
    assert engine._step == 5


def test_settling_stops_updates_that_are_ahead(training: Training) -> None:
    engine = training.engine
    engine.begin(numbers(1, 1, repeat=True), step=7)
    training.step(ahead=64)
    engine.settle()
    made = 100 - float(training.weight)
    engine.settle()
    assert 100 - float(training.weight) == made
    results = [training.step(ahead=64) for _ in range(int(made))]
    assert [each[0] for each in results if each] == [100 - i for i in range(1, int(made) + 1)]
    engine.end()
    training.cluster.join()
    engine.close()
    assert engine.contributions().total.lost == 0


def test_settling_after_the_last_update_leaves_it_the_last(training: Training) -> None:
    engine = training.engine
    results = [training.make_three()]
    engine.settle()
    results += [training.step(ahead=2 - made, last=True) for made in range(2)]
    assert results == [[100, 2], [99, 4], [98, 6]]
    assert not engine.active
    training.cluster.join()


def test_updates_of_a_run_that_was_ended_are_returned(training: Training) -> None:
    engine = training.engine
    results = [training.make_three()]
    engine.settle()
    current_run.interrupt(training.cluster.strategy)  # As an evaluation does.
    assert engine.active
    results += [training.step(ahead=2 - made, last=True) for made in range(2)]
    assert results == [[100, 2], [99, 4], [98, 6]]
    assert not engine.active
    training.cluster.join()
    engine.begin(numbers(1, 1, repeat=True), step=3)
    assert training.step(last=True) == [97, 8]
    training.cluster.join()
    engine.close()
    assert engine.contributions().total.accepted == 8


def test_a_new_training_does_not_return_what_the_last_one_left(training: Training) -> None:
    engine = training.engine
    training.make_three()
    engine.close(failed=True)
    assert not engine.active
    training.cluster.join()


def test_counts_of_a_lost_cluster_are_the_last_known(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = training.engine
    engine.begin(numbers(1, 1, repeat=True), step=0)
    training.step(last=True)
    training.cluster.join()
    assert engine.contributions().total.accepted == 2
    monkeypatch.setattr(engine._counts, "_ledger", None)  # Nobody asks the gate again.
    engine.abandon()
    assert engine.contributions().total.accepted == 2


def test_what_a_worker_reports_ends_training(
    one_device: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(one_device, monkeypatch, on_nonfinite="raise")
    engine = training.engine
    engine.begin(numbers(1, np.nan, 1, 1), step=0)
    with pytest.raises(WorkerFailed, match=r"Worker 1 raised InvalidArgumentError: .* NaN or Inf"):
        training.step()
    assert float(training.weight) == 100
    with pytest.raises(WorkerFailed):
        engine.close()
    engine.abandon()
    assert not engine.active
