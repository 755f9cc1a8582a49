"""A virtual cluster has the result of a real one in which gradients arrive in the same order."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.scripted import Script, ScriptedData, ledger, weights
from tests.extra import with_extra
from tf_backup.keras.simulated import virtual_cluster
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.virtual_cluster import VirtualCluster

pytestmark = [pytest.mark.long, pytest.mark.parametrize("cluster", [(4, 2)], indirect=True)]

RATE = 0.01
Events = list[tuple[int, float]]  # Workers and the x of their batches, as they arrive.

# Each policy, its events, and the number of updates that they make.
CASES: dict[str, tuple[BackupPolicy, Events, int]] = {
    # Workers 0, 2, 0 and 1 arrive when their steps are over. The last three begin again at once.
    "backup workers": (
        BackupPolicy(2, 2),
        [
            *[(3, 1.0), (1, 3.0)],
            *[(0, 2.0), (3, 0.5), (2, 9.0), (2, 0.7)],
            *[(0, 4.0), (0, 0.3), (1, 0.6), (1, 0.2)],
        ],
        3,
    ),
    "asynchronous": (
        BackupPolicy.asynchronous(4),
        [(3, 1.0), (1, 0.5), (3, 0.7), (0, 0.4), (3, 0.2), (2, 0.9), (1, 0.3)],
        7,
    ),
    # Workers 0, 2 and 1 are refused once each: their gradients would be older than one update.
    "bounded staleness": (
        BackupPolicy.asynchronous(4, max_staleness=1),
        [(3, 1.0), (1, 0.5), (3, 0.7), (0, 0.4), (3, 0.2), (2, 0.9), (1, 0.3), (0, 0.6)],
        5,
    ),
}


def square(y: Any, y_pred: Any) -> Any:
    """Return a loss whose gradient depends on the parameters, and so on their age."""
    return y_pred**2


def build(optimizer: Any) -> Any:
    """Return a compiled model with random numbers, and with state that moves with the batches."""
    layers = keras.layers
    inputs = keras.Input((1,))
    hidden = layers.Dropout(0.5, seed=7)(layers.Dense(20, use_bias=False)(inputs))
    normed = layers.BatchNormalization(momentum=0.9)(inputs)
    outputs = layers.Dense(1)(layers.Concatenate()([hidden, normed]))
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, loss=square)
    return model


class Arrivals:
    """Durations with which the k-th of some events happens at k + 1 seconds."""

    def __init__(self, events: Events) -> None:
        self.virtual: VirtualCluster | None = None
        self._times: dict[int, list[float]] = defaultdict(list)
        for index, (worker, _) in enumerate(events):
            self._times[worker].append(index + 1.0)

    def __call__(self, rng: np.random.Generator, workers: np.ndarray) -> np.ndarray:
        return np.array([self._next(worker) - self._now(worker) for worker in workers.tolist()])

    def _next(self, worker: int) -> float:
        return self._times[worker].pop(0) if self._times[worker] else 1e6

    def _now(self, worker: int) -> float:
        if self.virtual is None:  # It is being made.
            return 0.0
        gate = self.virtual._gate
        return float(max(gate.time, gate._arrived[worker]))


def train_virtually(
    policy: BackupPolicy, events: Events, updates: int, start: list[Any]
) -> tuple[VirtualCluster, Any]:
    def data(context: tf.distribute.InputContext) -> tf.data.Dataset:
        mine = [x for worker, x in events if worker == context.input_pipeline_id]
        x = np.array([*mine, 1e6], np.float32)[:, None, None]
        return tf.data.Dataset.from_tensor_slices((x, np.zeros_like(x)))

    model = build(keras.optimizers.SGD(RATE))
    model.set_weights(start)
    arrivals = Arrivals(events)
    virtual = virtual_cluster(model, policy, arrivals, data, update_s=0.5)
    arrivals.virtual = virtual
    virtual.run(updates)
    return virtual, model


@pytest.mark.parametrize("name", with_extra(CASES, "asynchronous", "bounded staleness"))
def test_same_arrivals_same_result(strategy: Any, tmp_path: Path, name: str) -> None:
    policy, events, updates = CASES[name]
    with strategy.scope():
        wrapped = tf_backup.wrap(
            keras.optimizers.SGD(RATE),
            policy.replicas,
            policy.backups,
            max_staleness=policy.max_staleness,
        )
        real = build(wrapped)
    start = weights(real)
    data = ScriptedData(tmp_path)
    with Script(real, data, events, settled=len(events) - 1):
        real.fit(data, steps_per_epoch=updates, verbose=0)
    virtual, model = train_virtually(policy, events, updates, start)
    for mine, right in zip(weights(model), weights(real), strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-5, atol=1e-7)
    assert not np.allclose(weights(model)[0], start[0], rtol=1e-2)
    books = ledger(real)
    for counts in ("accepted", "late", "stale"):
        assert getattr(virtual.ledger, counts).tolist() == getattr(books, counts).tolist()
    ages: dict[int, list[int]] = defaultdict(list)
    for update in virtual.history:
        for worker, age in zip(update.workers, update.staleness, strict=True):
            ages[worker].append(age)
    for record in real.optimizer.contributions.workers:
        counted = np.unique(ages[record.worker], return_counts=True)
        assert record.staleness == dict(zip(*(each.tolist() for each in counted), strict=True))
