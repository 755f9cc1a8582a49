"""Updates of N gradients while fewer than N workers are alive: `on_shortage="fill"`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.conftest import Kept
from tests.cluster.processes import wait_until
from tests.cluster.scripted import Script, ScriptedData, ledger, two_server_model, weights
from tf_backup.timeline.schema import ACCEPTED

pytestmark = pytest.mark.long

LEASE_S = 2.0


@pytest.fixture(scope="module")
def local(kept: Kept) -> Iterator[tf_backup.LocalCluster]:
    """Three workers with short leases."""
    kept.stop()
    with tf_backup.LocalCluster(3, 2, worker_timeout_s=LEASE_S) as cluster:
        yield cluster


def test_two_of_three_workers_make_updates_of_three_gradients(
    local: tf_backup.LocalCluster, tmp_path: Path
) -> None:
    model = two_server_model(local.strategy(), 1.0, 3, 0, on_shortage="fill")
    rows: list[Any] = []
    model.optimizer.listen(lambda contributions, _: rows.append(contributions))
    before, seen = weights(model), [weights(model)]

    def made(updates: int) -> Any:
        def wait() -> None:
            wait_until(lambda: ledger(model).step == updates)
            seen.append(weights(model))

        return wait

    def come_back() -> None:
        local.start_task("worker", 2)
        wait_until(lambda: ledger(model).queued[2] == 1)  # Its data begin again, with 6.0.
        assert ledger(model).quota == 1

    events = [
        *[(0, 1.0), (1, 2.0), (2, 6.0), made(1)],
        lambda: local.kill_task("worker", 2),
        *[(0, 3.0), (1, 4.0), (0, 5.0), made(2)],  # Worker 0 goes on when the lease has ended.
        (1, 1e6),  # Stale: worker 1 was about to contribute to that step again.
        *[(1, 7.0), (1, 9.0), (0, 2.0), made(3)],
        come_back,
        *[(0, 1.0), (1, 2.0)],
    ]
    data = ScriptedData(tmp_path)
    with Script(model, data, events):
        model.fit(data, steps_per_epoch=4, verbose=0)
    seen.append(weights(model))
    # The plain optimizer on the means of the gradients.
    plain = [tf.Variable(weight) for weight in before]
    optimizer = keras.optimizers.SGD(1.0)
    for after, gradients in zip(
        seen[1:], [(1, 2, 6), (3, 4, 5), (7, 9, 2), (6, 1, 2)], strict=True
    ):
        mean = np.full([1, 1], np.mean(gradients), np.float32)
        optimizer.apply(2 * [mean], plain)
        for right, mine in zip(plain, after, strict=True):
            np.testing.assert_allclose(mine, right.numpy(), rtol=1e-6)
    accounts = model.optimizer.contributions
    assert [each.accepted for each in accounts.workers] == [5, 5, 2]
    assert (accounts.workers[1].stale, accounts.workers[2].lost) == (1, 1)
    total = accounts.total.as_dict()
    assert total["computed"] == sum(total.values()) - total["computed"] == 14
    used = np.concatenate(rows)
    used = used[used["verdict"] == ACCEPTED]
    by_update = [sorted(used["worker"][used["update"] == step].tolist()) for step in range(4)]
    assert by_update == [[0, 1, 2], [0, 0, 1], [0, 1, 1], [0, 1, 2]]


def test_contributions_to_a_step_draw_different_random_numbers(
    local: tf_backup.LocalCluster,
) -> None:
    """One worker is left, and the gradients of an update have dropout masks of their own."""
    with local.strategy().scope():
        layers = [keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1, use_bias=False)]
        model = keras.Sequential([keras.Input((64,)), *layers])
        optimizer = tf_backup.wrap(keras.optimizers.SGD(1.0), 3, on_shortage="fill")
        model.compile(optimizer, lambda y, y_pred: y_pred)
    for worker in (1, 2):
        local.kill_task("worker", worker)
    (before,) = weights(model)
    batch = tf.data.Dataset.from_tensors((tf.ones([1, 64]), tf.zeros([1, 1])))
    model.fit(lambda context: batch.repeat(), steps_per_epoch=1, verbose=0)
    assert [each.accepted for each in optimizer.contributions.workers] == [3, 0, 0]
    masks = np.rint((before - weights(model)[0]) * 3 / 2)  # In how many of the three each is.
    assert set(np.unique(masks)) == {0, 1, 2, 3}
