"""Files and checkpoints, which hold theta(t), t and the plain optimizer's state."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.processes import start, wait_until
from tests.cluster.shared import Shared
from tests.extra import extra, with_extra

pytestmark = pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)

X = np.random.default_rng(0).normal(size=[32, 3]).astype(np.float32)
Y = X[:, :1] * 2.0


def compiled(optimizer: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def adam() -> Any:
    return keras.optimizers.Adam(0.01)


def wrapped(strategy: Any) -> Any:
    with strategy.scope():
        return compiled(tf_backup.wrap(adam(), replicas=2, backups=1, stall_timeout_s=50.0))


@pytest.fixture(scope="module")
def made(cluster: tf_backup.LocalCluster) -> Shared:
    return Shared(cluster.strategy(), wrapped(cluster.strategy()))


@pytest.fixture
def trained(made: Shared) -> Any:
    """A model after two updates of two gradients."""
    return after_two_updates(made.set_back())


def after_two_updates(model: Any) -> Any:
    model.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
    return model


def values(model: Any) -> list[Any]:
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return [variable.numpy() for variable in [*model.variables, *inner.variables]]


def assert_same(one: Any, other: Any) -> None:
    for ours, theirs in zip(values(one), values(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


ALONE = """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert type(model.optimizer) is keras.optimizers.Adam, model.optimizer
x = np.ones([8, 3], "float32")
model.fit(x, x[:, :1], batch_size=4, verbose=0)
print("iterations", int(model.optimizer.iterations), "tf_backup" in sys.modules)
"""

ON_A_CLUSTER = """
import sys, keras, numpy as np, tf_backup
with tf_backup.LocalCluster(workers=3, ps=1) as cluster:
    with cluster.strategy().scope():
        model = keras.models.load_model(sys.argv[1])
    x = np.ones([8, 3], "float32")
    model.evaluate(x, x[:, :1], verbose=0)
    model.fit(x, x[:, :1], batch_size=4, verbose=0)
    print("iterations", int(model.optimizer.iterations), model.optimizer.replicas)
"""


PROGRAMS = [(ALONE, "iterations 4 False"), (ON_A_CLUSTER, "iterations 3 2")]


@pytest.mark.parametrize(("program", "said"), with_extra(PROGRAMS, PROGRAMS[1]))
def test_a_new_process_goes_on(trained: Any, tmp_path: Path, program: str, said: str) -> None:
    """On one device without tf_backup, and on a cluster, where N and b stay the same."""
    trained.save(tmp_path / "model.keras")
    output, errors = start("-c", program, str(tmp_path / "model.keras")).communicate(timeout=200)
    assert said in output, errors


def test_a_file_holds_everything_once(strategy: Any, trained: Any, tmp_path: Path) -> None:
    model = trained
    model.save(tmp_path / "model.keras")
    with strategy.scope():
        again = keras.models.load_model(tmp_path / "model.keras")
    alone = keras.models.load_model(tmp_path / "model.keras")
    assert_same(again, model)
    assert_same(alone, model)
    assert again.optimizer.get_config() == model.optimizer.get_config()
    plain = compiled(adam())
    plain.fit(X, Y, batch_size=8, verbose=0)
    plain.save(tmp_path / "plain.keras")
    size = (tmp_path / "plain.keras").stat().st_size
    assert (tmp_path / "model.keras").stat().st_size < 1.1 * size


def test_loss_scaling_is_saved_around_the_inner_optimizer(strategy: Any, tmp_path: Path) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = after_two_updates(wrapped(strategy))
        model.save(tmp_path / "model.keras")
        alone = keras.models.load_model(tmp_path / "model.keras")
        with strategy.scope():
            again = keras.models.load_model(tmp_path / "model.keras")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert type(alone.optimizer.inner_optimizer) is keras.optimizers.Adam
    assert isinstance(again.optimizer.inner_optimizer, tf_backup.SyncReplicasWithBackup)
    assert again.optimizer.inner_optimizer.replicas == 2


def test_weights_go_to_and_come_from_one_device(trained: Any, tmp_path: Path) -> None:
    model = trained
    model.save_weights(tmp_path / "model.weights.h5")
    plain = compiled(adam())
    plain.fit(X, Y, batch_size=8, verbose=0)
    plain.load_weights(tmp_path / "model.weights.h5")
    assert_same(plain, model)
    plain.fit(X, Y, batch_size=8, verbose=0)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model.load_weights(tmp_path / "plain.weights.h5")
    assert_same(plain, model)
    model.fit(X, Y, batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == 2 + 4 + 2


def test_checkpoints_go_to_and_come_from_one_device(trained: Any, tmp_path: Path) -> None:
    model = trained
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "ours")
    plain = compiled(adam())
    plain.optimizer.build(plain.trainable_variables)
    status = tf.train.Checkpoint(model=plain, optimizer=plain.optimizer).restore(path)
    status.assert_existing_objects_matched()
    assert_same(plain, model)
    plain.fit(X, Y, batch_size=8, verbose=0)
    path = tf.train.Checkpoint(model=plain, optimizer=plain.optimizer).save(tmp_path / "plain")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(path)
    assert_same(plain, model)


def test_a_file_of_another_model_is_refused(trained: Any, tmp_path: Path) -> None:
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(9)])
    other.save_weights(tmp_path / "other.weights.h5")
    model = trained
    before = values(model)
    with pytest.raises(ValueError, match="could not be loaded"):
        model.load_weights(tmp_path / "other.weights.h5")
    model.set_weights(before[: len(model.get_weights())])
    model.fit(X, Y, batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == 4


def end(process: Any) -> None:
    """Kill a process if it still runs; its servers notice, and end."""
    if process.poll() is None:
        process.kill()
        process.communicate(timeout=60)


@extra  # So do `test_train_script.py` and `test_restarts.py`, from checkpoints of train.py.
def test_training_that_was_killed_goes_on_as_if_it_had_not_been(
    strategy: Any, tmp_path: Path
) -> None:
    """Everything is killed between two epochs, and restarts with other workers and servers."""
    with contextlib.ExitStack() as processes:

        def resumed(directory: str, *args: str) -> Any:
            program = "tests.cluster.programs.resume"
            process = start("-m", program, str(tmp_path / directory), *args)
            processes.callback(end, process)
            return process

        whole, first = resumed("whole", "3", "2"), resumed("cut", "3", "2", "1")
        wait_until(lambda: (tmp_path / "cut" / "epoch-1-done").exists(), timeout_s=120)
        end(first)
        second = resumed("cut", "4", "1")
        for process in (whole, second):
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    expected = json.loads((tmp_path / "whole" / "result.json").read_text())
    result = json.loads((tmp_path / "cut" / "result.json").read_text())
    assert expected["epochs"] == [0, 1, 2, 3]
    assert result["epochs"] == [2, 3]
    assert result["iterations"] == expected["iterations"] == 4 * 5
    for ours, theirs in zip(result["variables"], expected["variables"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
