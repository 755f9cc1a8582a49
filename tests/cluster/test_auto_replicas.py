"""replicas="auto" on a real cluster: nobody waits for a slow worker for long."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tf_backup.timeline.schema import ACCEPTED

pytestmark = [pytest.mark.long, pytest.mark.parametrize("cluster", [(4, 2)], indirect=True)]


def batches(context: tf.distribute.InputContext) -> Any:
    """Return batches on which worker 3 takes ten times as long as the others."""
    dataset = tf.data.Dataset.from_tensors((tf.ones([4, 3]), tf.ones([4, 1]))).repeat()
    return tf_backup.delay(dataset, 0.2 if context.input_pipeline_id == 3 else 0.02)


def model_of(strategy: Any, **options: Any) -> Any:
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(tf_backup.wrap(keras.optimizers.SGD(0.01), **options), "mse")
    return model


def test_a_slow_worker_is_left_out(strategy: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(strategy, replicas="auto", least_replicas=2)
    assert (model.optimizer.replicas, model.optimizer.backups) == (4, 0)
    used: list[Any] = []
    model.optimizer.listen(
        lambda rows, updates: used.extend(rows["update"][rows["verdict"] == ACCEPTED])
    )
    with caplog.at_level(logging.INFO, "tf_backup"):
        model.fit(batches, steps_per_epoch=250, verbose=0)
    sizes = np.bincount(used)
    assert len(sizes) == 250
    assert sizes[0] == 4
    assert sizes[-1] in (2, 3)
    assert "An update is the mean of 3 gradients from now on, instead of 4" in caplog.text
    total = model.optimizer.contributions.total
    assert total.accepted == sizes.sum()
    assert total.computed == sum(total.as_dict().values()) - total.computed


def test_bounds_that_cannot_be_are_refused(strategy: Any) -> None:
    for options, message in (
        ({"replicas": "best"}, r"replicas is 'best'; it must be an int, or \"auto\""),
        ({"replicas": 2, "least_replicas": 1}, 'a bound for replicas="auto", but replicas is 2'),
        ({"replicas": "auto", "backups": 4}, "backups is 4, but the cluster has 4"),
        ({"replicas": "auto", "least_replicas": 5}, r"at most replicas \(4\)"),
        ({"replicas": "auto", "least_replicas": 0}, "least_replicas is 0"),
        ({"replicas": "auto", "max_staleness": None}, "Only synchronous updates"),
        ({"replicas": "auto", "on_shortage": "shrink"}, "leave out on_shortage"),
        ({"replicas": "auto", "record_times": False}, "needs the recorded times"),
        ({"replicas": 2, "on_shortage": "ignore"}, "must be one of 'wait', 'shrink', 'fill'"),
        ({"replicas": 2, "on_shortage": "shrink", "max_staleness": 1}, "Only synchronous updates"),
        (
            {"replicas": 2, "on_shortage": "fill", "max_staleness": 1},
            "Only in synchronous training",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model_of(strategy, **options)


def test_outside_a_scope_it_is_refused(cluster: Any) -> None:
    del cluster
    with pytest.raises(ValueError, match="depends on the number of workers"):
        tf_backup.wrap(keras.optimizers.SGD(0.1), replicas="auto")
