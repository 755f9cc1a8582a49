"""Custom training loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup

pytestmark = pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)

UPDATES = 4
BATCH = 3


def new_model() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((2,), dtype="int64"),
            keras.layers.Embedding(7, 3),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2, kernel_regularizer="l2"),
        ]
    )


def batches(worker: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(worker)
    x = rng.integers(7, size=[UPDATES, BATCH, 2])
    return x, rng.normal(size=[UPDATES, BATCH, 2]).astype(np.float32)


def dataset_fn(context: tf.distribute.InputContext) -> tf.data.Dataset:
    data = tf.data.Dataset.from_tensor_slices(batches(context.input_pipeline_id)).repeat()
    return tf_backup.delay(data, 0.2 if context.input_pipeline_id == 2 else 0.0)


def loss_of(model: Any) -> Callable[[Any], Any]:
    def loss(batch: Any) -> Any:
        x, y = batch
        return keras.ops.mean((model(x, training=True) - y) ** 2) + sum(model.losses)

    return loss


def on_strategy(strategy: Any, replicas: int, backups: int = 0) -> tuple[Any, Any]:
    with strategy.scope():
        return new_model(), tf_backup.wrap(keras.optimizers.Adam(0.1), replicas, backups)


def test_equals_one_device_on_the_same_batches(strategy: Any) -> None:
    model, optimizer = on_strategy(strategy, 2)
    made = list(tf_backup.minimize(loss_of(model), model, optimizer, dataset_fn, UPDATES))
    plain, inner = new_model(), keras.optimizers.Adam(0.1)
    losses = []
    for update in range(UPDATES):
        gradients, moves, state = [], [], [v.numpy() for v in plain.non_trainable_variables]
        for worker in range(2):
            for variable, value in zip(plain.non_trainable_variables, state, strict=True):
                variable.assign(value)
            with tf.GradientTape() as tape:
                loss = loss_of(plain)(tuple(part[update] for part in batches(worker)))
            sources = [v.value for v in plain.trainable_variables]
            gradients.append([tf.convert_to_tensor(g) for g in tape.gradient(loss, sources)])
            moves.append([v.numpy() for v in plain.non_trainable_variables])
            losses.append(float(loss))
        for variable, *new in zip(plain.non_trainable_variables, *moves, strict=True):
            variable.assign(np.mean(new, axis=0).astype(variable.dtype))
        inner.apply(
            [sum(each) / 2 for each in zip(*gradients, strict=True)], plain.trainable_variables
        )
    assert [update.step for update in made] == [1, 2, 3, 4]
    means = np.mean(np.reshape(losses, [UPDATES, 2]), axis=1)
    np.testing.assert_allclose([update.loss for update in made], means, rtol=1e-5)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


def test_trains_beside_a_slow_worker_again_and_again(strategy: Any) -> None:
    model, optimizer = on_strategy(strategy, 2, 1)
    for update in tf_backup.minimize(loss_of(model), model, optimizer, dataset_fn, 100):
        assert math.isfinite(update.loss)
        if update.step == 3:
            break  # The workers stop all the same.
    assert int(optimizer.iterations) == 3
    with strategy.scope():
        again = tf_backup.minimize(loss_of(model), model, optimizer, dataset_fn, 2)
        assert [update.step for update in again] == [4, 5]
    total = optimizer.contributions.total
    assert total.accepted == 2 * 5
    assert total.computed == total.accepted + total.late + total.stale


def test_others_may_have_the_workers_between_two_updates(strategy: Any) -> None:
    """Regression: evaluation waited forever behind loops that waited for the next update."""
    model, optimizer = on_strategy(strategy, 2)
    with strategy.scope():
        model.compile(optimizer, "mse")
    losses = []
    for update in tf_backup.minimize(loss_of(model), model, optimizer, dataset_fn, 3):
        validation = tf.data.Dataset.from_tensor_slices(batches(0))
        losses.append(model.evaluate(validation, verbose=0))
        if update.step == 1:
            model.fit(dataset_fn, steps_per_epoch=2, verbose=0)
    assert int(optimizer.iterations) == 5 and len(set(losses)) == 3
    total = optimizer.contributions.total
    assert total.accepted == 2 * 5
    assert total.computed == total.accepted + total.late + total.stale


def test_ends_with_the_data(strategy: Any) -> None:
    model, optimizer = on_strategy(strategy, 2)

    def three(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return dataset_fn(context).take(3)

    with pytest.warns(UserWarning, match="ended after 3 of 9"):
        made = list(tf_backup.minimize(loss_of(model), model, optimizer, three, 9))
    assert len(made) == 3


def test_bad_arguments_are_refused_at_once(strategy: Any) -> None:
    model, optimizer = on_strategy(strategy, 2)
    loss = loss_of(model)
    with pytest.raises(TypeError, match="must be made by"):
        tf_backup.minimize(loss, model, optimizer.inner_optimizer, dataset_fn, 1)
    with pytest.raises(ValueError, match="updates is 0"):
        tf_backup.minimize(loss, model, optimizer, dataset_fn, 0)
    with pytest.raises(TypeError, match="of shape \\(3, 2\\)"):
        tf_backup.minimize(lambda batch: model(batch[0]), model, optimizer, dataset_fn, 1)
    with pytest.raises(ValueError, match="no trainable variables"):
        tf_backup.minimize(loss, keras.layers.Dense(2), optimizer, dataset_fn, 1)
    with pytest.raises(TypeError, match="or a function from"):
        tf_backup.minimize(loss, model, optimizer, [1, 2], 1)
    outside = new_model()
    with strategy.scope():
        other = tf_backup.wrap(keras.optimizers.SGD(), 1)
    with pytest.raises(ValueError, match="on no parameter server"):
        tf_backup.minimize(loss_of(outside), outside, other, dataset_fn, 1)
    assert len(list(tf_backup.minimize(loss, model, optimizer, dataset_fn, 1))) == 1
