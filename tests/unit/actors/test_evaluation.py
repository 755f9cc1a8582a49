"""Evaluation, with one device as the server and threads as workers: every batch counts once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.actors.one_process import SPEC, Cluster
from tf_backup._tf.named import Name
from tf_backup.actors.evaluation import Evaluation
from tf_backup.errors import WorkerFailed, WorkersLost
from tf_backup.network.watch import Watch
from tf_backup.objective import Measurement, traced
from tf_backup.worker_data import WorkerData

pytestmark = pytest.mark.slow  # Computes for seconds.


class Mean:
    """An evaluation of a weight times the mean of numbers, on two workers."""

    def __init__(self, cluster: Cluster, stall_timeout_s: float = 60.0) -> None:
        self.weight = tf.Variable(2.0)

        def compute(values: Any, seed: Any, batch: Any) -> list[Any]:
            return [values[0] * batch, tf.constant(1, tf.int64)]

        measurement = Measurement(
            read=[self.weight],
            compute=traced(compute, [self.weight], SPEC),
            results=lambda sums: (float(sums[0]), int(sums[1])),
        )
        self.evaluation = Evaluation(cluster.strategy, measurement, SPEC, stall_timeout_s)

    def of(self, *numbers: float) -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(np.float32(numbers))
        return self.evaluation.run(WorkerData(dataset, workers=2, repeat=False))


@pytest.fixture
def cluster(one_device: Name, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(2, one_device, monkeypatch)


def test_every_batch_counts_once_with_the_latest_parameters(cluster: Cluster) -> None:
    mean = Mean(cluster)
    assert mean.of(1, 2, 3, 4, 5) == (30, 5)
    cluster.join()
    mean.weight.assign(10.0)
    assert mean.of(1, 2) == (30, 2)
    cluster.join()
    cluster.members.lives[0] = 0  # One worker is enough for both halves.
    assert mean.of(1, 2, 3) == (60, 3)
    cluster.join()


def test_what_a_worker_reports_ends_it(cluster: Cluster) -> None:
    mean = Mean(cluster)
    cluster.members.lives[:] = [0, 0]
    cluster.errors.append({"worker": 1, "type": "ResourceExhaustedError", "message": "no memory"})
    with pytest.raises(WorkerFailed, match="Worker 1 raised ResourceExhaustedError: no memory"):
        mean.of(1, 2)
    assert not mean.evaluation._dispenser.lanes().open


def test_it_does_not_wait_for_workers_for_ever(cluster: Cluster) -> None:
    mean = Mean(cluster, stall_timeout_s=0.0)
    cluster.members.lives[:], cluster.members.living = [0, 0], 0
    with pytest.raises(WorkersLost, match="No worker has been alive"):
        mean.of(1, 2)


def test_a_life_that_has_just_begun_keeps_its_lane(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean = Mean(cluster)
    dispenser, freed = mean.evaluation._dispenser, []
    lanes = dispenser.lanes()._replace(holder=np.array([3, 1]))
    monkeypatch.setattr(dispenser, "lanes", lambda: lanes)
    monkeypatch.setattr(dispenser, "expire", lambda gone: freed.append(gone.numpy().tolist()))
    cluster.members.lives[:] = [0, 2]  # The chief has not heard of life 3; life 1 has ended.
    mean.evaluation._look_around(Watch())
    assert freed == [[0, 1]]


def test_an_interrupt_ends_it_for_the_workers_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean = Mean(cluster)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "call", interrupted)
        patch.setattr(cluster, "announce", cluster.jobs.append)  # No worker begins.
        with pytest.raises(KeyboardInterrupt):
            mean.of(*range(10))
    assert not mean.evaluation._dispenser.lanes().open
    assert [job is None for job in cluster.jobs] == [False, True]
    assert mean.of(1, 2, 3) == (12, 3)
    cluster.join()
