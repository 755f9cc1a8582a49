"""Kinds of Keras models, and a check that training one gives the result of one device.

A kind is a function that builds and compiles a model with a given optimizer, and one that makes
a batch. Of N + b workers, the b get no batch before training is over. So it is known which batches
are used, and one device can compute the expected result: the plain optimizer on the mean of the N
gradients, state changed by the mean of the N changes, and metrics over all N batches.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.scripted import held

REPLICAS = 2
UPDATES = 3
BATCH = 4
LENGTH = 5  # of sequences
WORDS = 7

Rng = np.random.Generator
Batch = Any  # (x,), (x, y) or (x, y, sample_weight) of arrays


class Kind(NamedTuple):
    """A kind of model.

    Attributes:
      model: function from an optimizer to a compiled model.
      batch: function from a random generator to a batch.
      policy: Keras' dtype policy.
      rtol: relative tolerance for differences from one device.
      atol: absolute tolerance for differences from one device.
      warns: pattern of the warning that Keras gives when this kind is trained.
      equality: whether one device computes the same (not if random numbers are drawn).
      told: function from Keras' metrics and the losses of all batches, on one device, to the logs
        that the step should report; by default Keras' metrics and the mean loss.
      called: whether the model itself can be called on a batch.
    """

    model: Callable[[Any], Any]
    batch: Callable[[Rng], Batch]
    policy: str = "float32"
    rtol: float = 2e-5
    atol: float = 2e-6
    warns: str | None = None
    equality: bool = True
    told: Callable[[dict[str, Any], list[float]], dict[str, Any]] | None = None
    called: bool = True


def normal(rng: Rng, *shape: int) -> np.ndarray[Any, Any]:
    return rng.normal(size=[BATCH, *shape]).astype(np.float32)


def regression(rng: Rng) -> Batch:
    return normal(rng, 6), normal(rng, 2)


def classification(rng: Rng) -> Batch:
    return normal(rng, 6), rng.integers(3, size=[BATCH])


def weighted(rng: Rng) -> Batch:
    return *classification(rng), rng.uniform(size=[BATCH]).astype(np.float32)


def words(rng: Rng) -> np.ndarray[Any, Any]:
    """Return sentences that end in zeros: [batch, length]."""
    ends = rng.integers(1, LENGTH + 1, size=[BATCH, 1])
    return np.where(np.arange(LENGTH) < ends, rng.integers(1, WORDS, size=[BATCH, LENGTH]), 0)


def sequential(*stack: Any, size: int = 6) -> Any:
    return keras.Sequential([keras.Input((size,)), *stack])


@contextlib.contextmanager
def circumstances(kind: Kind) -> Iterator[None]:
    """Set dtype policy and seed, and expect the kind's warning."""
    keras.utils.set_random_seed(1)
    keras.mixed_precision.set_global_policy(kind.policy)
    quiet = contextlib.nullcontext()
    try:
        with pytest.warns(UserWarning, match=kind.warns) if kind.warns else quiet:
            yield
    finally:
        keras.mixed_precision.set_global_policy("float32")


def sgd() -> Any:
    return keras.optimizers.SGD(0.1, momentum=0.9)


def batches(kind: Kind, worker: int) -> list[Batch]:
    rng = np.random.default_rng(worker)
    return [kind.batch(rng) for _ in range(UPDATES)]


def data_of(kind: Kind) -> Callable[[tf.distribute.InputContext], tf.data.Dataset]:
    """Return a function that gives each worker its batches."""

    def dataset_fn(context: tf.distribute.InputContext) -> tf.data.Dataset:
        mine = batches(kind, context.input_pipeline_id)
        stacked = tf.nest.map_structure(lambda *parts: np.stack(parts), *mine)
        return tf.data.Dataset.from_tensor_slices(stacked)

    return dataset_fn


def on_strategy(strategy: Any, kind: Kind, replicas: int = REPLICAS, backups: int = 0) -> Any:
    with strategy.scope():
        return kind.model(tf_backup.wrap(sgd(), replicas, backups))


def gradients_of(model: Any, batch: Batch, called: bool) -> tuple[list[Any], float]:
    """Compute like Keras' train_step without the update; return gradients and loss."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True) if called else None
        loss = model.compute_loss(x, y, y_pred, sample_weight, training=True)
        scaled = model.optimizer.scale_loss(loss)
    model.compute_metrics(x, y, y_pred, sample_weight)
    return tape.gradient(scaled, [v.value for v in model.trainable_variables]), float(loss)


def mean_gradient(gradients: Any) -> Any:
    if gradients[0] is None:
        return None
    return tf.add_n([tf.convert_to_tensor(g) for g in gradients]) / len(gradients)


def update_with(model: Any, each: list[Batch], called: bool = True) -> list[float]:
    """Make one update with the mean of the gradients on N batches; return the N losses."""
    state = [*model.non_trainable_variables, *model.trainable_variables]
    before = [variable.numpy() for variable in state]
    moves: list[Any] = [0.0] * len(state)
    gradients, losses = [], []
    for batch in each:
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)
        more, loss = gradients_of(model, batch, called)
        gradients.append(more)
        losses.append(loss)
        moves = [m + v.numpy() - b for m, v, b in zip(moves, state, before, strict=True)]
    for variable, value, move in zip(state, before, moves, strict=True):
        variable.assign(value + move / len(each))
    means = [mean_gradient(column) for column in zip(*gradients, strict=True)]
    model.optimizer.apply(means, model.trainable_variables)
    return losses


def one_device(kind: Kind, by_worker: list[list[Batch]]) -> tuple[Any, dict[str, Any]]:
    """Train on one device with the mean over the workers; return the model and its metrics."""
    model = kind.model(sgd())
    if not all(layer.built for layer in model._flatten_layers(include_self=False)):
        model(keras.utils.unpack_x_y_sample_weight(by_worker[0][0])[0])
    model.optimizer.build(model.trainable_variables)
    losses: list[float] = []
    for each in zip(*by_worker, strict=True):
        losses += update_with(model, list(each), kind.called)
    logs = {**model.get_metrics_result(), "loss": np.mean(losses)}
    return model, logs if kind.told is None else kind.told(logs, losses)


def assert_same(kind: Kind, model: Any, logs: dict[str, Any], plain: Any, expected: Any) -> None:
    """Compare variables (of model and optimizer) and metrics."""
    pairs = list(zip(model.variables, plain.variables, strict=True))
    pairs += zip(model.optimizer.variables, plain.optimizer.variables, strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), kind.rtol, kind.atol, err_msg=theirs.path
        )
    assert set(logs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, kind.rtol, kind.atol, err_msg=name)


def check(strategy: Any, kind: Kind, directory: Path) -> None:
    """Train a kind with N = 2 and b = 1, and compare with one device."""

    def dataset_fn(context: tf.distribute.InputContext) -> tf.data.Dataset:
        mine = data_of(kind)(context)
        backup = context.input_pipeline_id == REPLICAS
        return held(mine, directory / "over") if backup else mine

    over = keras.callbacks.LambdaCallback(on_train_end=lambda logs: (directory / "over").touch())
    with circumstances(kind):
        model = on_strategy(strategy, kind, REPLICAS, backups=1)
        start = [np.array(weight) for weight in model.get_weights()]
        try:
            history = model.fit(
                dataset_fn, steps_per_epoch=UPDATES, verbose=0, callbacks=[over]
            ).history
        finally:  # Also after a failure: the worker is needed for the next kind.
            (directory / "over").touch()
    logs = {name: values[-1] for name, values in history.items()}
    assert all(math.isfinite(value) for value in logs.values()), history
    if len(start) == len(model.get_weights()):  # It was built before fit.
        moved = [(a != b).any() for a, b in zip(start, model.get_weights(), strict=True)]
        assert any(moved), "Nothing was trained."
    wrapped = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    wrapped = wrapped if hasattr(wrapped, "contributions") else model.optimizer
    accounts = wrapped.contributions
    assert [record.accepted for record in accounts.workers] == [UPDATES, UPDATES, 0]
    total = accounts.total
    assert total.computed == total.accepted + total.late + total.stale
    assert total.duplicate == total.lost == 0
    if kind.equality:
        with circumstances(kind):
            plain, expected = one_device(kind, [batches(kind, i) for i in range(REPLICAS)])
        assert_same(kind, model, logs, plain, expected)
