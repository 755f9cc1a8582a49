"""The wrapped optimizer without a cluster; tests/cluster trains with it."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tf_backup._tf import runtime
from tf_backup.actors import coordinator
from tf_backup.keras import _seams, optimizer, strategy_check
from tf_backup.keras.optimizer import SyncReplicasWithBackup
from tf_backup.policy import BackupPolicy
from tf_backup.records import Contributions, WorkerRecord

GRADIENTS = ([[3.0, -4.0], [0.5, 0.0]], [-1.0, 2.0])


def halving() -> Any:
    return keras.optimizers.schedules.ExponentialDecay(1.0, decay_steps=1, decay_rate=0.5)


INNER: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.9, centered=True),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=1.0),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=1.0),
    "clipvalue": lambda: keras.optimizers.Adam(0.1, clipvalue=0.7),
    "weight_decay": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.3),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "schedule": lambda: keras.optimizers.SGD(halving()),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}
every_inner = pytest.mark.parametrize("inner", INNER.values(), ids=INNER.keys())


def sgd(**options: Any) -> Any:
    return keras.optimizers.SGD(0.1, **options)


def parameters() -> list[Any]:
    """Return variables of the shapes of `GRADIENTS`, with the same names each time."""
    values = ([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0])
    return [keras.Variable(value, name=f"v{place}") for place, value in enumerate(values)]


def train(trainer: Any, variables: list[Any], updates: int = 3) -> None:
    for update in range(1, updates + 1):
        trainer.apply([tf.constant(g) * float(update) for g in GRADIENTS], variables)


def assert_same_values(these: list[Any], those: list[Any]) -> None:
    for one, other in zip(these, those, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


# ---- The constructor --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate"),
    [("rmsprop", 0.001), (keras.optimizers.serialize(keras.optimizers.RMSprop(0.5)), 0.5)],
)
def test_an_optimizer_by_its_name_or_configuration(name: Any, rate: float):
    inner = SyncReplicasWithBackup(name, 2).inner_optimizer
    assert type(inner) is keras.optimizers.RMSprop
    assert float(inner.learning_rate) == pytest.approx(rate)


def test_a_name_of_no_optimizer_is_refused():
    with pytest.raises(ValueError, match="adamm"):
        SyncReplicasWithBackup("adamm", 2)


@pytest.mark.parametrize("wrong", [None, 0.1, keras.optimizers.SGD])
def test_what_is_no_optimizer_is_refused(wrong: Any):
    with pytest.raises(TypeError, match=re.escape(f"optimizer is {wrong!r}; it must be a Keras 3")):
        SyncReplicasWithBackup(wrong, 2)


def test_wrapping_twice_is_refused():
    wrapped = SyncReplicasWithBackup(sgd(), 2)
    for outer in (wrapped, keras.optimizers.LossScaleOptimizer(wrapped)):
        with pytest.raises(TypeError, match="wrapped already; wrap the optimizer inside it"):
            SyncReplicasWithBackup(outer, 2)


def test_n_and_b_are_checked():
    with pytest.raises(ValueError, match="replicas is 0"):
        SyncReplicasWithBackup(sgd(), 0)
    with pytest.raises(ValueError, match="backups is -1"):
        SyncReplicasWithBackup(sgd(), 1, -1)
    with pytest.raises(TypeError, match=r"replicas must be an int, not 2\.0"):
        SyncReplicasWithBackup(sgd(), 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_stall_timeout_must_be_above_zero(seconds: float):
    with pytest.raises(ValueError, match=f"stall_timeout_s is {seconds}; it must be a"):
        SyncReplicasWithBackup(sgd(), 1, stall_timeout_s=seconds)


def test_what_it_is_told_it_knows():
    inner = sgd()
    wrapped = SyncReplicasWithBackup(inner, 3, 1, stall_timeout_s=5.0, name="mine")
    assert wrapped.inner_optimizer is inner
    assert (wrapped.replicas, wrapped.backups, wrapped.stall_timeout_s) == (3, 1, 5.0)
    assert wrapped.policy == BackupPolicy(3, 1)
    assert wrapped.name == "mine"


# ---- It is the inner optimizer ----------------------------------------------------------------


@every_inner
def test_apply_equals_the_inner_optimizers(inner: Callable[[], Any]):
    plain, wrapped = inner(), SyncReplicasWithBackup(inner(), 2)
    ours, theirs = parameters(), parameters()
    train(plain, theirs)
    train(wrapped, ours)
    assert_same_values(ours, theirs)
    assert_same_values(wrapped.variables, plain.variables)
    assert int(wrapped.iterations) == int(plain.iterations) > 0


def test_apply_leaves_out_a_gradient_that_is_none():
    plain, wrapped = sgd(), SyncReplicasWithBackup(sgd(), 2)
    ours, theirs = parameters(), parameters()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        plain.apply([None, tf.constant(GRADIENTS[1])], theirs)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        wrapped.apply([None, tf.constant(GRADIENTS[1])], ours)
    assert_same_values(ours, theirs)
    assert_same_values(ours[:1], parameters()[:1])


def test_apply_gradients_equals_the_inner_optimizers():
    plain, wrapped = sgd(), SyncReplicasWithBackup(sgd(), 2)
    ours, theirs = parameters(), parameters()
    for trainer, variables in ((plain, theirs), (wrapped, ours)):
        gradients = [tf.constant(g) for g in GRADIENTS]
        trainer.apply_gradients(zip(gradients, variables, strict=True))
    assert_same_values(ours, theirs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clipnorm", 2.0),
        ("global_clipnorm", 2.0),
        ("clipvalue", 2.0),
        ("weight_decay", 0.1),
        ("use_ema", True),
        ("ema_momentum", 0.7),
        ("ema_overwrite_frequency", 5),
        ("loss_scale_factor", 8.0),
        ("gradient_accumulation_steps", 4),
        ("momentum", 0.9),
    ],
)
def test_options_are_the_inner_ones(name: str, value: Any):
    options = {"use_ema": True, name: value} if name.startswith("ema") else {name: value}
    wrapped = SyncReplicasWithBackup(sgd(**options), 2)
    assert getattr(wrapped, name) == value


def test_option_that_is_set_later_reaches_the_inner_one():
    wrapped = SyncReplicasWithBackup(sgd(clipnorm=1.0), 2)
    wrapped.clipnorm = 7.0
    assert wrapped.inner_optimizer.clipnorm == 7.0


def test_what_neither_has_is_an_attribute_error():
    wrapped = SyncReplicasWithBackup(sgd(), 2)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = wrapped.nothing_like_this
    unborn = SyncReplicasWithBackup.__new__(SyncReplicasWithBackup)
    with pytest.raises(AttributeError):  # Not endless recursion.
        _ = unborn.inner_optimizer


def test_learning_rate_is_the_inner_one():
    inner = sgd()
    wrapped = SyncReplicasWithBackup(inner, 2)
    wrapped.learning_rate = 0.25
    assert float(inner.learning_rate) == 0.25
    inner.learning_rate = 0.5
    assert float(wrapped.learning_rate) == 0.5


def test_learning_rate_follows_the_inner_schedule():
    wrapped = SyncReplicasWithBackup(INNER["schedule"](), 2)
    rates = []
    variables = parameters()
    for _ in range(3):
        rates.append(float(wrapped.learning_rate))
        train(wrapped, variables, updates=1)
    assert rates == [1.0, 0.5, 0.25]


def test_iterations_are_the_inner_ones():
    inner = sgd()
    wrapped = SyncReplicasWithBackup(inner, 2)
    assert wrapped.iterations is inner.iterations
    inner.iterations.assign(41)
    train(wrapped, parameters(), updates=1)
    assert int(wrapped.iterations) == 42


def test_variables_are_the_inner_ones_and_no_others():
    inner = keras.optimizers.Adam()
    wrapped = SyncReplicasWithBackup(inner, 2)
    assert not inner.built
    variables = parameters()
    wrapped.build(variables)
    assert inner.built
    assert wrapped.built
    wrapped.build(variables)  # Keras calls it again; moments must not be recreated.
    assert [v.path for v in wrapped.variables] == [v.path for v in inner.variables]
    assert len(wrapped.variables) == 2 + 2 * len(variables)


def test_what_is_built_is_not_built_again():
    class Counting(keras.optimizers.SGD):
        builds = 0

        def build(self, variables: Any) -> None:
            self.builds += 1
            super().build(variables)

    inner, variables = Counting(0.1), parameters()
    for _ in range(2):
        SyncReplicasWithBackup(inner, 2).build(variables)
    assert inner.builds == 1


def test_ema_is_written_at_the_end():
    plain, wrapped = INNER["ema"](), SyncReplicasWithBackup(INNER["ema"](), 2)
    ours, theirs = parameters(), parameters()
    for trainer, variables in ((plain, theirs), (wrapped, ours)):
        train(trainer, variables)
        trained = variables[0].numpy()
        trainer.finalize_variable_values(variables)
        assert not np.array_equal(variables[0].numpy(), trained)
    assert_same_values(ours, theirs)


def test_weight_decay_leaves_out_what_is_excluded():
    plain, wrapped = INNER["weight_decay"](), SyncReplicasWithBackup(INNER["weight_decay"](), 2)
    ours, theirs, other = parameters(), parameters(), parameters()
    for trainer, variables in ((plain, theirs), (wrapped, ours)):
        trainer.exclude_from_weight_decay(var_names=["v1"])
        train(trainer, variables)
    train(INNER["weight_decay"](), other)
    assert_same_values(ours, theirs)
    assert not np.array_equal(ours[1].numpy(), other[1].numpy())


def test_loss_is_scaled_as_the_inner_one_does():
    wrapped = SyncReplicasWithBackup(sgd(loss_scale_factor=8.0), 2)
    assert float(wrapped.scale_loss(tf.constant(0.5))) == 4.0
    dynamic = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=16.0)
    dynamic.build(parameters())
    assert float(SyncReplicasWithBackup(dynamic, 2).scale_loss(tf.constant(0.5))) == 8.0


# ---- Configuration and files ------------------------------------------------------------------


@every_inner
def test_config_round_trip(inner: Callable[[], Any]):
    wrapped = SyncReplicasWithBackup(inner(), 3, 1, 7.0, "mine", max_staleness=4)
    written = keras.saving.serialize_keras_object(wrapped)
    again = keras.saving.deserialize_keras_object(written)
    assert type(again) is SyncReplicasWithBackup
    assert again.get_config() == wrapped.get_config()
    assert (again.replicas, again.backups, again.stall_timeout_s) == (3, 1, 7.0)
    assert again.max_staleness == 4
    assert type(again.inner_optimizer) is type(wrapped.inner_optimizer)
    assert again.inner_optimizer.get_config() == wrapped.inner_optimizer.get_config()


def test_config_knows_every_argument():
    wrapped = SyncReplicasWithBackup(sgd(), 3)
    arguments = {*inspect.signature(SyncReplicasWithBackup.__init__).parameters} - {"self"}
    assert set(wrapped.get_config()) == arguments


def test_config_from_before_there_was_a_bound_is_synchronous():
    config = SyncReplicasWithBackup(sgd(), 3, max_staleness=None).get_config()
    assert config["max_staleness"] is None
    assert SyncReplicasWithBackup.from_config(config).max_staleness is None
    del config["max_staleness"]
    assert SyncReplicasWithBackup.from_config(config).max_staleness == 0


def test_from_config_leaves_its_argument_alone():
    config = SyncReplicasWithBackup(sgd(), 3).get_config()
    SyncReplicasWithBackup.from_config(config)
    assert isinstance(config["inner_optimizer"], dict)


def test_custom_inner_optimizer_is_found():
    class Mine(keras.optimizers.SGD):
        pass

    config = SyncReplicasWithBackup(Mine(0.1), 3).get_config()
    again = SyncReplicasWithBackup.from_config(config, custom_objects={"Mine": Mine})
    assert type(again.inner_optimizer) is Mine


def test_saved_model_has_the_optimizers_state(tmp_path: pathlib.Path):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile(SyncReplicasWithBackup(keras.optimizers.Adam(0.1), 3, 1), "mse")
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    model.optimizer.apply(gradients, model.trainable_variables)
    _seams.install()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").optimizer
    assert type(again) is keras.optimizers.Adam
    assert int(again.iterations) == 1
    assert_same_values(again.variables, model.optimizer.variables)


# ---- Accounts ---------------------------------------------------------------------------------


def test_before_training_all_accounts_are_zero():
    assert SyncReplicasWithBackup(sgd(), 2, 1).contributions == Contributions.none(3)


@dataclasses.dataclass(eq=False)
class FakeEngine:
    counts: list[int]

    def contributions(self) -> Contributions:
        return Contributions(
            tuple(WorkerRecord(i, n, n, 0, 0, 0, 0) for i, n in enumerate(self.counts))
        )


def test_accounts_of_several_engines_add_up():
    wrapped = SyncReplicasWithBackup(sgd(), 1, 1)
    one, other = FakeEngine([1, 0]), FakeEngine([0, 0])

    def accepted() -> list[int]:
        return [record.accepted for record in wrapped.contributions.workers]

    wrapped.report_to(one)
    wrapped.report_to(other)
    assert accepted() == [1, 0]
    one.counts, other.counts = [2, 0], [0, 5]
    assert accepted() == [2, 5]  # All are asked each time.
    del one
    other.counts = [1, 6]
    assert accepted() == [3, 6]  # The last counts of what is gone are kept.


def test_find_looks_inside_other_optimizers():
    wrapped = SyncReplicasWithBackup(sgd(), 2)
    assert optimizer.find(wrapped) is wrapped
    assert optimizer.find(keras.optimizers.LossScaleOptimizer(wrapped)) is wrapped
    assert optimizer.find(sgd()) is None
    assert optimizer.find(keras.optimizers.LossScaleOptimizer(sgd())) is None
    assert optimizer.find(None) is None


# ---- Strategies -------------------------------------------------------------------------------

REMEDY = (
    r"Call it inside `with strategy\.scope\(\):`, where strategy = "
    r"tf_backup\.parameter_server_strategy\(\)\."
)


def test_wrap_outside_a_strategy_is_refused():
    with pytest.raises(ValueError, match=f"but found no strategy. {REMEDY}"):
        tf_backup.wrap(sgd(), replicas=2)


@pytest.mark.parametrize("name", ["OneDeviceStrategy", "MirroredStrategy"])
def test_wrap_under_another_strategy_is_refused(name: str):
    device = "CPU:0" if name == "OneDeviceStrategy" else ["CPU:0"]
    strategy = getattr(tf.distribute, name)(device)
    with strategy.scope(), pytest.raises(ValueError, match=f"but found {name}. {REMEDY}"):
        tf_backup.wrap(sgd(), replicas=2)


def test_wrap_refuses_bad_arguments_before_it_looks_at_the_strategy():
    with pytest.raises(TypeError, match="must be a Keras 3 optimizer"):
        tf_backup.wrap(0.1, replicas=2)
    with pytest.raises(ValueError, match="replicas is 0"):
        tf_backup.wrap(sgd(), replicas=0)


@pytest.fixture
def parameter_servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let any object pass for a parameter-server strategy with these properties."""
    cluster = {"workers": 3, "partitioner": False}
    monkeypatch.setattr(runtime, "is_parameter_server_strategy", lambda strategy: True)
    monkeypatch.setattr(runtime, "worker_count", lambda strategy: cluster["workers"])
    monkeypatch.setattr(
        runtime, "has_variable_partitioner", lambda strategy: cluster["partitioner"]
    )
    monkeypatch.setattr(coordinator, "of", lambda strategy: cluster.get("coordinator"))
    return cluster


def test_cluster_with_enough_workers_is_accepted(parameter_servers):
    strategy_check.check_strategy(object(), BackupPolicy(2, 1))
    strategy_check.check_strategy(object(), BackupPolicy(1, 0))


def test_cluster_with_too_few_workers_is_refused(parameter_servers):
    with pytest.raises(ValueError, match=r"more than the 3 worker.* Start 1 more"):
        strategy_check.check_strategy(object(), BackupPolicy(2, 2))


def test_variable_partitioner_is_refused(parameter_servers):
    parameter_servers["partitioner"] = True
    with pytest.raises(ValueError, match=r"variable_partitioner.*Make the strategy without it"):
        strategy_check.check_strategy(object(), BackupPolicy(2, 1))
