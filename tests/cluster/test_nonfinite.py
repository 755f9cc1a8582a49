"""What becomes of gradients with NaN or Inf: dropped, raised or kept, as the user wants."""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.shared import COUNTS, Shared
from tests.extra import with_extra

pytestmark = pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)

BATCHES, BAD = 8, 3
Case = tuple[bool, float, int]  # Whether the gradient is sparse, the bad value, b.


def cases(*usual: Case, b: Sequence[int] = (0, 1)) -> pytest.MarkDecorator:
    """Parametrize a test by all cases with some b, of which the usual run has only a few."""
    every = list(itertools.product([False, True], [np.nan, np.inf], b))
    chosen = with_extra(every, *(case for case in every if case not in usual))
    kinds = [f"{'sparse' if case[0] else 'dense'}-{case[1]}-{case[2]}" for case in every]
    return pytest.mark.parametrize(("sparse", "value", "backups"), chosen, ids=kinds)


def examples(worker: int, sparse: bool, value: float | None) -> list[tuple[Any, Any]]:
    """Return a worker's batches of two examples; one label of worker 1 is `value`."""
    rng = np.random.default_rng(worker)
    found = []
    for batch in range(BATCHES):
        x = rng.integers(0, 7, [2, 3]) if sparse else rng.normal(size=[2, 3]).astype(np.float32)
        y = rng.normal(size=[2, 1]).astype(np.float32)
        if value is not None and (worker, batch) == (1, BAD):
            y[1] = value
        found.append((x, y))
    return found


def data(sparse: bool, value: float | None, backup: int = BATCHES) -> Any:
    """Return what `fit` trains on: each worker has its own batches, and worker 2 only `backup`."""

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        worker = context.input_pipeline_id
        x, y = zip(*examples(worker, sparse, value), strict=True)
        batches = tf.data.Dataset.from_tensor_slices((np.stack(x), np.stack(y)))
        return batches.take(backup) if worker == 2 else batches

    return of_worker


def built(sparse: bool) -> keras.Model:
    """Return a model with the same weights each time."""
    layers: list[Any] = [keras.layers.Embedding(7, 2), keras.layers.Flatten()] if sparse else []
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    for index, variable in enumerate(model.trainable_variables):
        rng = np.random.default_rng(index)
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
    return model


def wrapped(
    strategy: Any, sparse: bool, replicas: int, backups: int, on_nonfinite: str = "drop"
) -> keras.Model:
    with strategy.scope():
        model = built(sparse)
        optimizer = tf_backup.wrap(
            keras.optimizers.SGD(0.05), replicas, backups, on_nonfinite=on_nonfinite
        )
        model.compile(optimizer=optimizer, loss="mse")
    return model


Trainer = Callable[..., Shared]


@pytest.fixture(scope="module")
def made(cluster: tf_backup.LocalCluster) -> Trainer:
    """Function of the arguments of `wrapped`: always the same model for the same arguments."""

    @functools.cache
    def get(*arguments: Any) -> Shared:
        return Shared(cluster.strategy(), wrapped(cluster.strategy(), *arguments))

    return get


@pytest.fixture
def trained(made: Trainer) -> Trainer:
    """The same function, of a model as it was in the beginning."""

    def get(sparse: bool, replicas: int, backups: int, on_nonfinite: str = "drop") -> Shared:
        found = made(sparse, replicas, backups, on_nonfinite)
        found.set_back()
        return found

    return get


def plain(sparse: bool, updates: list[list[tuple[Any, Any]]]) -> keras.Model:
    """Return a model that one device has trained on the mean over each update's batches."""
    model = built(sparse)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
    for batches in updates:
        x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
        model.train_on_batch(x, y)
    return model


def assert_same(ours: keras.Model, theirs: keras.Model) -> None:
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@cases((True, np.inf, 0), b=[0])
def test_dropped_it_is_as_if_its_batch_had_not_been_there(
    trained: Trainer, sparse: bool, value: float, backups: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ours = trained(sparse, 2, backups)
    ours.model.fit(data(sparse, value), epochs=1, steps_per_epoch=BATCHES - 1, verbose=0)
    first, second = (examples(worker, sparse, value) for worker in range(2))
    del second[BAD]
    updates = [list(pair) for pair in zip(first, second, strict=False)]
    assert_same(ours.model, plain(sparse, updates))
    one, other = ours.counts()
    assert (one["nonfinite"], other["nonfinite"]) == (0, 1)
    assert other["accepted"] == BATCHES - 1
    total = ours.total()
    assert total["computed"] == sum(total[name] for name in COUNTS[1:])
    # Any of the three workers may have the second place.
    assert re.search(r"Dropped 1 gradient\(s\) .* of worker\(s\) [012] \(1\)\.", caplog.text)


@cases((False, np.nan, 1), b=[1])
def test_dropped_with_a_backup_worker(
    trained: Trainer, sparse: bool, value: float, backups: int
) -> None:
    # Worker 0 has one gradient in each update at most, and worker 2 two in all. So worker 1 has at
    # least five, and computes its bad one on the way.
    ours = trained(sparse, 2, backups)
    ours.model.fit(data(sparse, value, backup=2), steps_per_epoch=BATCHES - 1, verbose=0)
    assert all(np.all(np.isfinite(weight)) for weight in ours.model.get_weights())
    total = ours.total()
    assert total["nonfinite"] == 1 and total["accepted"] == 2 * (BATCHES - 1)


@cases((True, np.nan, 1))
def test_raised_it_names_worker_and_step(
    trained: Trainer, sparse: bool, value: float, backups: int
) -> None:
    model = trained(sparse, 2, backups, "raise").model
    is_new = model.optimizer.contributions.total.computed == 0  # Step numbers are not repeated.
    said = r"Worker [012] .*NaN or Inf at step.*\[\d+\]"
    with pytest.raises(tf_backup.WorkerFailed, match=said) as caught:
        model.fit(data(sparse, value, backup=2), steps_per_epoch=BATCHES - 1, verbose=0)
    if not backups and is_new:
        assert f"[{BAD}]" in str(caught.value)


@cases((False, np.inf, 0))
def test_kept_it_does_what_it_does_on_one_device(
    trained: Trainer, sparse: bool, value: float, backups: int
) -> None:
    model = trained(sparse, 2, backups, "keep").model
    model.fit(data(sparse, value, backup=0), steps_per_epoch=BATCHES - 1, verbose=0)
    assert not all(np.all(np.isfinite(weight)) for weight in model.get_weights())
    assert model.optimizer.contributions.total.nonfinite == 0


HUGE = list(itertools.product([False, True], [0, 1], ["drop", "raise", "keep"]))
USUAL = ((True, 0, "drop"),)


@pytest.mark.parametrize(
    ("sparse", "backups", "on_nonfinite"),
    with_extra(HUGE, *(case for case in HUGE if case not in USUAL)),
)
def test_what_is_huge_and_finite_is_used(
    trained: Trainer, sparse: bool, backups: int, on_nonfinite: str
) -> None:
    ours = trained(sparse, 2, backups, on_nonfinite)
    backup = 0 if backups else BATCHES  # So that each update has the same gradients.
    ours.model.fit(data(sparse, 1e30, backup), epochs=1, steps_per_epoch=BAD + 1, verbose=0)
    first, second = (examples(worker, sparse, 1e30) for worker in range(2))
    updates = [list(pair) for pair in zip(first, second, strict=True)][: BAD + 1]
    assert_same(ours.model, plain(sparse, updates))
    assert ours.total()["nonfinite"] == 0


@pytest.mark.parametrize("backups", with_extra([0, 1], 0))
def test_without_enough_finite_ones_it_ends(strategy: Any, backups: int) -> None:
    model = wrapped(strategy, False, 2, backups)
    x, y = np.ones([64, 3], np.float32), np.full([64, 1], np.nan, np.float32)
    broken = tf.data.Dataset.from_tensor_slices((x, y)).batch(2, drop_remainder=True).repeat()
    with pytest.raises(tf_backup.NonFiniteGradients, match="Step 0 needs 2 gradients, but all of"):
        model.fit(broken, steps_per_epoch=5, verbose=0)
    model.fit(data(False, None), steps_per_epoch=BATCHES - 1, verbose=0)  # It can go on.
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def test_data_that_ends_without_an_update_is_told_from_data_that_ends(trained: Trainer) -> None:
    model = trained(False, 2, 0).model
    model.fit(data(False, np.nan), verbose=0)  # Of unknown length: to its end.
    assert int(model.optimizer.iterations) == BATCHES - 1

    def broken(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return data(False, None)(context).map(lambda x, y: (x, y * np.nan))

    with pytest.raises(tf_backup.NonFiniteGradients):  # In the step, or at the end of the data.
        model.fit(broken, verbose=0)
    assert int(model.optimizer.iterations) == BATCHES - 1


def test_loss_scaling_skips_them_itself(strategy: Any) -> None:
    with strategy.scope():
        model = built(False)
        optimizer = tf_backup.wrap(keras.optimizers.SGD(0.05), 2)
        scaled = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer=scaled, loss="mse")
    model.fit(data(False, np.nan), steps_per_epoch=BATCHES - 1, verbose=0)
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())
    assert optimizer.contributions.total.nonfinite == 0
    assert int(optimizer.iterations) < BATCHES - 1


def test_loops_of_their_own_drop_them_too(strategy: Any) -> None:
    model = wrapped(strategy, False, 2, 0)

    def loss(batch: Any) -> Any:
        x, y = batch
        return keras.ops.mean((model(x, training=True) - y) ** 2)

    list(tf_backup.minimize(loss, model, model.optimizer, data(False, np.nan), BATCHES - 1))
    assert model.optimizer.contributions.total.nonfinite == 1
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def test_an_unknown_policy_is_refused(strategy: Any) -> None:
    with strategy.scope(), pytest.raises(ValueError, match="on_nonfinite is 'ignore'; it must be"):
        tf_backup.wrap(keras.optimizers.SGD(0.05), 2, on_nonfinite="ignore")
