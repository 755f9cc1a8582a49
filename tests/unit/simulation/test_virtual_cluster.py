"""Virtual clusters: gradients, updates and accounts are those of the algorithms, step by step."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_backup.errors import NonFiniteGradients
from tf_backup.keras.optimizer import SyncReplicasWithBackup
from tf_backup.keras.simulated import virtual_cluster
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Constant, Exponential, Recorded
from tf_backup.simulation.timing import simulate
from tf_backup.simulation.virtual_cluster import VirtualCluster
from tf_backup.simulation.virtual_gate import NoWork, VirtualGate, simulated_timeline

pytestmark = pytest.mark.slow  # Computes for seconds.

layers = keras.layers
SAMPLES, FEATURES, BATCH = 48, 4, 4
X = np.random.default_rng(1).normal(size=[SAMPLES, FEATURES]).astype(np.float32)
Y = np.random.default_rng(2).normal(size=[SAMPLES, 1]).astype(np.float32)


def batches() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH, drop_remainder=True)


def build(*stack: Any, optimizer: Any = None, **options: Any) -> Any:
    """Return a compiled model with the same weights each time."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input([FEATURES]), *(stack or dense())])
    options = {"loss": "mse", "jit_compile": False, **options}
    model.compile(optimizer or keras.optimizers.SGD(0.1), **options)
    return model


def dense() -> list[Any]:
    return [layers.Dense(5, activation="tanh"), layers.Dense(1)]


def seconds(*each: float) -> Any:
    """Return constant durations, one for each worker."""
    return lambda rng, workers: np.asarray(each)[workers]


def weights(model: Any) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.get_weights()]


def assert_same(one: Any, other: Any) -> None:
    for mine, right in zip(weights(one), weights(other), strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-5, atol=1e-6)


# --- Updates


OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01, clipnorm=0.5, use_ema=True),
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_backups_it_is_the_optimizer_on_the_mean(name: str):
    workers, updates = 3, 5
    mine = build(optimizer=OPTIMIZERS[name]())
    made = virtual_cluster(mine, BackupPolicy(workers), seconds(1.0, 3.0, 2.0), batches()).run(
        updates
    )
    right, losses = build(optimizer=OPTIMIZERS[name]()), []
    right.optimizer.build(right.trainable_variables)
    data = list(batches())
    for step in range(updates):
        # Worker i reads batches i, i + 3, i + 6 ..., and again from the start.
        read = [data[(worker + workers * step) % len(data)] for worker in range(workers)]
        with tf.GradientTape() as tape:
            parts = [tf.reduce_mean((right(x, training=True) - y) ** 2) for x, y in read]
            loss = tf.add_n(parts) / workers
        right.optimizer.apply(tape.gradient(loss, right.trainable_variables))
        losses.append(float(loss))
    assert_same(mine, right)
    assert [update.logs["loss"] for update in made] == pytest.approx(losses, rel=1e-5)
    assert [update.workers for update in made] == [(0, 2, 1)] * updates
    assert [update.time for update in made] == [3.0, 6.0, 9.0, 12.0, 15.0]
    assert int(mine.optimizer.iterations) == updates


class Weight(layers.Layer):
    """A weight w whose gradient is w x under the loss of `follow`."""

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(), initializer="ones")

    def call(self, x: Any) -> Any:
        return 0.5 * self.w**2 * x


def follow(policy: BackupPolicy, durations: Any, updates: int) -> tuple[VirtualCluster, float]:
    """Train a weight that is 1 at first; worker i always has the gradient w (i + 1)."""
    model = keras.Sequential([keras.Input([1]), Weight()])
    model.compile(keras.optimizers.SGD(0.1), loss=lambda y, y_pred: y_pred, jit_compile=False)

    def data(context: tf.distribute.InputContext) -> tf.data.Dataset:
        x = np.full([1, 1], context.input_pipeline_id + 1, np.float32)
        return tf.data.Dataset.from_tensors((x, x)).repeat()

    cluster = virtual_cluster(model, policy, durations, data)
    cluster.run(updates)
    return cluster, float(model.trainable_variables[0])


def test_asynchronous_gradients_are_of_old_parameters():
    cluster, w = follow(BackupPolicy.asynchronous(2), seconds(2.0, 3.0), 4)
    assert [update.workers for update in cluster.history] == [(0,), (1,), (0,), (0,)]
    assert [update.staleness for update in cluster.history] == [(0,), (1,), (1,), (0,)]
    w0 = 1.0
    w1 = w0 - 0.1 * w0
    w2 = w1 - 0.2 * w0  # By worker 1, which began before the first update.
    w3 = w2 - 0.1 * w1
    assert w == pytest.approx(w3 - 0.1 * w3)


def test_backups_are_not_used():
    cluster, w = follow(BackupPolicy(2, 1), seconds(1.0, 2.0, 3.0), 2)
    assert [update.workers for update in cluster.history] == [(0, 1), (0, 1)]
    assert w == pytest.approx((1 - 0.15) ** 2)
    # The third ends at 3, one second into step 1, and begins that.
    assert cluster.ledger.stale.tolist() == [0, 0, 1]


def test_softsync_takes_the_mean_of_gradients_of_any_age():
    cluster, w = follow(BackupPolicy(2, 1, None), seconds(1.0, 1.5, 3.9), 3)
    assert [update.workers for update in cluster.history] == [(0, 1), (0, 1), (2, 0)]
    assert [update.staleness for update in cluster.history] == [(0, 0), (0, 0), (2, 0)]
    w2 = (1 - 0.15) ** 2
    assert w == pytest.approx(w2 - 0.1 * (3 * 1.0 + w2) / 2)


def test_only_parameters_that_are_needed_are_kept():
    bounded = BackupPolicy.asynchronous(6, max_staleness=2)
    for policy, most in ((BackupPolicy(2, 2), 1), (bounded, 3)):
        cluster, _ = follow(policy, Exponential(0.0, 1.0), 25)
        assert 1 <= len(cluster._workers._versions) <= most


# --- State and random numbers


def test_batch_norm_moves_by_the_mean_of_the_workers():
    mine = build(layers.BatchNormalization(momentum=0.9), layers.Dense(1))
    virtual_cluster(mine, BackupPolicy(2), Constant(1.0), batches()).run(1)
    means = [np.mean(x, axis=0) for x, _ in batches().take(2)]
    norm = mine.layers[0]
    np.testing.assert_allclose(norm.moving_mean, 0.1 * np.mean(means, axis=0), rtol=1e-4)


def test_dropout_differs_by_worker_and_is_the_same_again():
    def train(workers: int) -> Any:
        model = build(layers.Dense(20), layers.Dropout(0.5), layers.Dense(1))
        same = tf.data.Dataset.from_tensors((X[:BATCH], Y[:BATCH])).repeat()
        virtual_cluster(model, BackupPolicy(workers), Constant(1.0), same).run(2)
        return model

    one, again, two = train(1), train(1), train(2)
    assert_same(one, again)
    # Two workers with the same batch have different gradients, so their mean is not that of one.
    assert not np.allclose(weights(one)[0], weights(two)[0], rtol=1e-3)


class OwnStep(keras.Model):
    """A model with its own `train_step`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
        return {"mine": loss}


def with_step_set_on_it(inputs: Any, outputs: Any) -> Any:
    model = keras.Model(inputs, outputs)
    model.train_step = functools.partial(OwnStep.train_step, model)
    return model


@pytest.mark.parametrize("make", [OwnStep, with_step_set_on_it])
def test_models_with_their_own_step(make: Callable[..., Any]):
    policy = BackupPolicy(2)
    right = build()
    others = virtual_cluster(right, policy, Constant(1.0), batches()).run(3)
    keras.utils.set_random_seed(3)
    inputs = keras.Input([FEATURES])
    outputs = inputs
    for layer in dense():
        outputs = layer(outputs)
    mine = make(inputs, outputs)
    mine.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    made = virtual_cluster(mine, policy, Constant(1.0), batches()).run(3)
    assert_same(mine, right)
    assert made[2].logs["mine"] == pytest.approx(others[2].logs["loss"], rel=1e-5)


def test_metrics_are_of_the_batches_of_an_update():
    model = build(optimizer=keras.optimizers.SGD(0.0), metrics=["mae"])
    made = virtual_cluster(model, BackupPolicy(3), Constant(1.0), batches()).run(4)
    right = model.evaluate(X, Y, verbose=0, return_dict=True)  # Four updates read all batches.
    for name in ("loss", "mae"):
        assert np.mean([update.logs[name] for update in made]) == pytest.approx(right[name])


def test_embeddings_and_loss_scaling():
    keras.utils.set_random_seed(3)
    stack = [layers.Embedding(9, 3), layers.Flatten(), layers.Dense(1)]
    model = keras.Sequential([keras.Input([2], dtype="int64"), *stack])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05))
    model.compile(optimizer, loss="mse", jit_compile=False)
    words = np.random.default_rng(0).integers(0, 9, [40, 2])
    data = tf.data.Dataset.from_tensor_slices((words, words[:, :1] / 9)).batch(5)
    made = virtual_cluster(model, BackupPolicy(2, 1), Exponential(0.0, 1.0), data).run(20)
    assert made[-1].logs["loss"] < made[0].logs["loss"]


# --- Time


def test_mean_staleness_of_asynchronous_training():
    workers = 5
    gate = VirtualGate(Exponential(0.0, 1.0), BackupPolicy.asynchronous(workers), 0.0, seed=0)
    ages = [gate.update(NoWork()).staleness for _ in range(1000)]
    assert np.mean(ages) == pytest.approx(workers - 1, rel=0.05)


def test_the_gate_agrees_with_timing():
    rng = np.random.default_rng(0)
    for bound, case in itertools.product((0, 1, 3, None), range(5)):
        replicas, backups = int(rng.integers(1, 5)), int(rng.integers(0, 5))
        policy = BackupPolicy(replicas, backups, bound)
        durations = seconds(*rng.integers(1, 9, [policy.workers]) / 4)
        update_s = float(rng.choice([0.0, 0.25, 1.0]))
        gate = VirtualGate(durations, policy, update_s, seed=0)
        made = [gate.update(NoWork()) for _ in range(15)]
        right = simulate(durations, policy, 15, update_s=update_s)
        assert [update.time for update in made] == right.times.tolist(), (policy, case)
        for name, counts in right.counts._asdict().items():
            assert getattr(gate.ledger, name).tolist() == counts.tolist()
        ages = [age for update in made for age in update.staleness]
        assert np.bincount(ages).tolist() == right.staleness.tolist()


def test_timeline_has_every_gradient():
    cluster, _ = follow(BackupPolicy(2, 1), seconds(1.0, 2.0, 2.5), 4)
    timeline = cluster.timeline()
    counts = timeline.counts()
    assert counts["accepted"] == 8
    for name in ("accepted", "late", "stale"):
        assert counts[name] == int(getattr(cluster.ledger, name).sum())
    assert timeline.settings.workers == 3
    assert timeline.updates["step"].tolist() == [0, 1, 2, 3]
    released = [round(update.time * 1e6) for update in cluster.history]
    assert timeline.updates["released"].tolist() == released
    used = timeline.contributions[timeline.contributions["update"] == 1]
    assert tuple(used["worker"]) == cluster.history[1].workers
    assert set(timeline.contributions["arrived"] - timeline.contributions["began"]) <= {
        1_000_000,
        2_000_000,
        2_500_000,
    }


def test_timeline_of_older_gradients():
    cluster, _ = follow(BackupPolicy.asynchronous(3), Exponential(0.0, 1.0), 30)
    ages = [age for update in cluster.history for age in update.staleness]
    assert cluster.timeline().staleness.tolist() == ages


def test_timeline_without_a_model():
    policy, durations = BackupPolicy(3, 2), Exponential(1.0, 1.0)
    timeline = simulated_timeline(durations, policy, 50, update_s=0.5, seed=1)
    assert (len(timeline.updates), timeline.counts()["accepted"]) == (50, 150)
    assert timeline.settings.replicas == 3
    again = Recorded.of(timeline)  # Measured durations, as of a real training.
    right = simulate(durations, policy, 3000, update_s=0.5).seconds_per_update
    assert simulate(again, policy, 3000, update_s=0.5).seconds_per_update == pytest.approx(
        right, rel=0.1
    )
    with pytest.raises(ValueError, match="updates is 0"):
        simulated_timeline(durations, policy, 0)


def test_same_seed_same_result():
    def train(seed: int) -> tuple[Any, Any]:
        model = build()
        data = batches().unbatch().shuffle(SAMPLES).batch(BATCH)
        cluster = virtual_cluster(model, BackupPolicy(2, 2), Exponential(0.0, 1.0), data, seed=seed)
        return cluster.run(4), model

    (one, model), (again, model_again), (other, _) = train(1), train(1), train(2)
    assert one == again != other
    assert_same(model, model_again)


def test_pieces_of_a_run_are_one_run():
    def train(*pieces: int) -> tuple[list[Any], Any]:
        model, told = build(), []
        cluster = virtual_cluster(model, BackupPolicy(2, 1), Exponential(0.0, 1.0), batches())
        made = [update for piece in pieces for update in cluster.run(piece, told.append)]
        assert made == told == cluster.history
        return made, model

    (one, model), (again, model_again) = train(4), train(1, 3)
    assert one == again
    assert_same(model, model_again)


def test_durations_may_change():
    cluster, _ = follow(BackupPolicy(2), Constant(1.0), 2)
    cluster.durations = Constant(10.0)
    # The workers have begun step 2 already.
    assert [update.time for update in cluster.run(2)] == [3.0, 13.0]


def test_seeds_go_on_with_the_iterations():
    model = build()
    virtual_cluster(model, BackupPolicy(2), Constant(1.0), batches()).run(3)
    later = virtual_cluster(model, BackupPolicy(2), Constant(1.0), batches())
    assert later.run(1)[0].step == 3


def test_documented_snippets_run(capsys: pytest.CaptureFixture[str]):
    page = (pathlib.Path(__file__).parents[3] / "docs" / "simulation.md").read_text("utf-8")
    times, training = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(compile(times, "times", "exec"), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [["100", "0"], ["98", "2"], ["96", "4"], ["92", "8"]]
    assert float(rows[-1][2]) < float(rows[0][2])
    names: dict[str, Any] = {}
    exec(compile(training, "training", "exec"), names)
    losses = [update.logs["loss"] for update in names["cluster"].history]
    assert losses[-1] < 0.5 * losses[0]


# --- What cannot be used


def poisoned(share: float) -> Callable[[tf.distribute.InputContext], tf.data.Dataset]:
    """Return data of which worker 0 has NaN in a share of its batches."""

    def data(context: tf.distribute.InputContext) -> tf.data.Dataset:
        bad = context.input_pipeline_id == 0
        period = round(1 / share)

        def make(index: Any) -> Any:
            nan = tf.cast(index % period == 0, tf.float32) * (np.nan if bad else 0.0)
            value = tf.where(tf.cast(index % period == 0, tf.bool), nan, 0.0)
            return X[:BATCH] + value, Y[:BATCH]

        return tf.data.Dataset.range(2**40).map(make)

    return data


def test_gradients_that_are_not_finite_are_dropped():
    model = build()
    cluster = virtual_cluster(model, BackupPolicy(2), Constant(1.0), poisoned(1 / 3))
    made = cluster.run(4)
    assert cluster.ledger.nonfinite.tolist() == [2, 0]
    assert cluster.timeline().counts()["nonfinite"] == 2
    # Worker 0 needs another second for its third and its sixth batch.
    assert [update.time for update in made] == [2.0, 3.0, 5.0, 6.0]
    assert all(np.isfinite(weight).all() for weight in weights(model))


def test_gradients_that_are_not_finite_end_the_run():
    cluster = virtual_cluster(build(), BackupPolicy(2), Constant(1.0), poisoned(1.0))
    with pytest.raises(NonFiniteGradients, match=r"worker 0 at step 0 .* as 20 others"):
        cluster.run(1)
    raising = virtual_cluster(
        build(), BackupPolicy(2), Constant(1.0), poisoned(1.0), on_nonfinite="raise"
    )
    with pytest.raises(NonFiniteGradients, match="worker 0 at step 0 has NaN or Inf"):
        raising.run(1)
    model = build()
    virtual_cluster(model, BackupPolicy(2), Constant(1.0), poisoned(1.0), on_nonfinite="keep").run(
        1
    )
    assert np.isnan(weights(model)[0]).all()


def test_data_that_ends():
    data = batches().take(4).filter(lambda x, y: True)  # Of unknown length.
    cluster = virtual_cluster(build(), BackupPolicy(2), Constant(1.0), data)
    assert len(cluster.run(2)) == 2
    for _ in range(2):  # The error leaves the cluster as it was.
        with pytest.raises(ValueError, match=r"the data of worker 0 has ended\. .*\.repeat\(\)"):
            cluster.run(1)
    assert len(cluster.history) == 2


def uncompiled() -> Any:
    return keras.Sequential([keras.Input([FEATURES]), layers.Dense(1)])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": uncompiled}, ValueError, "not compiled with an optimizer. Call"),
        (
            {"model": lambda: build(optimizer=SyncReplicasWithBackup("sgd", 2))},
            ValueError,
            "optimizer is wrapped, .* Compile the model with the optimizer itself",
        ),
        ({"data": X}, TypeError, "it must be a tf.data.Dataset or a function"),
        ({"update_s": -1.0}, ValueError, "update_s is -1.0; it must be at least 0"),
        ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite is 'ignore'; it must be one of"),
        ({"durations": seconds(1.0, 0.0)}, ValueError, r"returned 0\.0 for worker 1"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], error: Any, message: str):
    right = {"model": build, "durations": Constant(1.0), "data": batches()}
    arguments: dict[str, Any] = {**right, **changes}
    arguments["model"] = arguments["model"]()
    with pytest.raises(error, match=message):
        virtual_cluster(policy=BackupPolicy(2), **arguments)


def test_updates_are_immutable():
    cluster, _ = follow(BackupPolicy(2), Constant(1.0), 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cluster.history[0].time = 0.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="updates is 0"):
        cluster.run(0)
