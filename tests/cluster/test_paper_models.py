"""The paper's models on real servers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.extra import with_extra
from tests.unit.models.test_networks import TASKS, Task, compiled, examples

pytestmark = [pytest.mark.long, pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)]


FIRST = ("language_model of characters",)


@pytest.mark.parametrize("name", with_extra(TASKS, *(set(TASKS) - set(FIRST))))
def test_trains_with_a_backup_worker(strategy: Any, name: str) -> None:
    task: Task = TASKS[name]
    with strategy.scope():
        optimizer = tf_backup.wrap(keras.optimizers.Adam(0.02), replicas=2, backups=1)
        model = compiled(task, optimizer)

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        data = examples(task).repeat().batch(8)
        return tf_backup.delay(data, 0.2 if context.input_pipeline_id == 2 else 0.0)

    losses = model.fit(batches, steps_per_epoch=10, epochs=4, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    assert min(losses) < 0.95 * losses[0]
    assert optimizer.contributions.total.accepted == 2 * 40
