"""Changes to Keras while a computation is traced: who sees them, and what is there afterwards."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.unit.waiting_calls import in_thread, waits
from tf_backup.keras import _tracing
from tf_backup.keras.optimizer import SyncReplicasWithBackup

WAIT_S = 60
IDS = tf.constant([2, 0])
OTHER = ValueError("another optimizer")


class Broken(Exception):
    """What a traced computation raises."""


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns in another thread."""
    return in_thread(function, *args).result(timeout=WAIT_S)


def everywhere(value: float) -> Callable[[Any, Any], Any]:
    """Return a function that finds the same value in all rows."""
    return lambda variable, ids: tf.fill([*ids.shape, 2], value)


def mean(*values: float) -> Any:
    metric = keras.metrics.Mean()
    metric.update_state(values)
    return metric


@pytest.fixture
def table() -> Any:
    table = layers.Embedding(3, 2)
    table.build()
    table.set_weights([np.arange(6.0).reshape(3, 2)])
    return table


ROWS = np.array([[4.0, 5.0], [0.0, 1.0]])  # Of the table, for IDS.


# ---- Rows of embeddings -----------------------------------------------------------------------


def test_rows_are_those_of_the_function_in_this_thread_only(table: Any) -> None:
    with _tracing.looking_up(everywhere(7.0)):
        np.testing.assert_array_equal(elsewhere(table, IDS), ROWS)
        np.testing.assert_array_equal(table(IDS), np.full([2, 2], 7.0))
    np.testing.assert_array_equal(table(IDS), ROWS)


def test_threads_that_come_and_go_look_up_their_own_rows(table: Any) -> None:
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> Any:
        with _tracing.looking_up(everywhere(1.0)):
            first_in.set()
            assert second_in.wait(WAIT_S)
            found = table(IDS)
        first_out.set()
        return found

    def second() -> Any:
        assert first_in.wait(WAIT_S)
        with _tracing.looking_up(everywhere(2.0)):
            second_in.set()
            assert first_out.wait(WAIT_S)
            return table(IDS)

    for place, call in enumerate([in_thread(first), in_thread(second)]):
        np.testing.assert_array_equal(call.result(timeout=WAIT_S), np.full([2, 2], place + 1.0))
    np.testing.assert_array_equal(table(IDS), ROWS)


def test_of_two_functions_the_inner_one_is_asked_first(table: Any) -> None:
    with _tracing.looking_up(everywhere(1.0)):
        with _tracing.looking_up(everywhere(2.0)):
            np.testing.assert_array_equal(table(IDS), np.full([2, 2], 2.0))
        with _tracing.looking_up(lambda variable, ids: None):
            np.testing.assert_array_equal(table(IDS), np.full([2, 2], 1.0))
        np.testing.assert_array_equal(table(IDS), np.full([2, 2], 1.0))


def in_a_loop(table: Any) -> Any:
    return tf.map_fn(table, IDS, fn_output_signature=tf.float32)


def in_a_branch(table: Any) -> Any:
    return tf.cond(tf.size(IDS) > 0, lambda: table(IDS), lambda: tf.zeros([2, 2]))


def in_a_function(table: Any) -> Any:
    return tf.function(lambda: table(IDS), autograph=False)()


def in_a_gradient(table: Any) -> Any:
    return tf.recompute_grad(lambda: table(IDS))()


def in_a_data_set(table: Any) -> Any:
    return tf.data.Dataset.from_tensors(IDS).map(table).get_single_element()


@pytest.mark.parametrize(
    "where", [in_a_loop, in_a_branch, in_a_function, in_a_gradient, in_a_data_set]
)
def test_what_is_traced_inside_is_traced_in_this_thread(
    where: Callable[..., Any], table: Any
) -> None:
    with _tracing.looking_up(everywhere(7.0)):
        function = tf.function(lambda: where(table), autograph=False).get_concrete_function()
    np.testing.assert_array_equal(function(), np.full([2, 2], 7.0))


def test_keras_still_knows_the_arguments_of_its_methods() -> None:
    apply = keras.optimizers.Optimizer.apply
    assert [*inspect.signature(layers.Embedding.call).parameters] == ["self", "inputs"]
    assert [*inspect.signature(apply).parameters] == ["self", "grads", "trainable_variables"]


def test_an_embedding_converts_without_a_warning(table: Any) -> None:
    """AutoGraph, which Keras' own functions do not use, leaves it alone."""
    np.testing.assert_array_equal(tf.function(lambda: table(IDS))(), ROWS)


# ---- Updates ----------------------------------------------------------------------------------


def updated(optimizer: Any) -> float:
    """Return a variable of value 5 after an update with gradient 1."""
    variable = keras.Variable(5.0)
    optimizer.apply([tf.constant(1.0)], [variable])
    return float(variable)


def sgd() -> Any:
    return keras.optimizers.SGD(1.0)


def wrapped() -> Any:
    return SyncReplicasWithBackup(sgd(), replicas=2)


class Recorder(list[Any]):
    """Replacement for `apply` that keeps its gradients."""

    def __call__(self, grads: Any, trainable_variables: Any = None) -> None:
        self.extend(float(gradient) for gradient in grads)


every_optimizer = pytest.mark.parametrize("make", [sgd, wrapped])


@every_optimizer
def test_this_thread_records_and_others_update(make: Callable[[], Any]) -> None:
    optimizer, recorder = make(), Recorder()
    with _tracing.applying(optimizer, recorder, OTHER):
        assert updated(optimizer) == 5.0
        with pytest.raises(ValueError, match="another optimizer"):
            updated(make())
        assert elsewhere(updated, make()) == 4.0
        assert recorder == [1.0]
    assert updated(make()) == 4.0


@every_optimizer
def test_the_same_optimizer_updates_in_another_thread(make: Callable[[], Any]) -> None:
    optimizer, recorder = make(), Recorder()
    with _tracing.applying(optimizer, recorder, OTHER):
        assert elsewhere(updated, optimizer) == 4.0
    assert recorder == []


@every_optimizer
def test_an_apply_of_the_class_is_there_again(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = keras.optimizers.Optimizer.apply

    def apply(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)

    for _ in range(2):
        with _tracing.applying(make(), Recorder(), OTHER):
            pass
        assert vars(keras.optimizers.Optimizer)["apply"] is keras.optimizers.Optimizer.apply
        monkeypatch.setattr(keras.optimizers.Optimizer, "apply", apply)
    assert vars(keras.optimizers.Optimizer)["apply"] is apply
    assert updated(make()) == 4.0


def test_an_apply_of_the_object_is_there_again() -> None:
    optimizer, mine = sgd(), Recorder()
    object.__setattr__(optimizer, "apply", mine)
    with _tracing.applying(optimizer, Recorder(), OTHER):
        updated(optimizer)
        elsewhere(updated, optimizer)
        assert mine == [1.0]
    assert vars(optimizer)["apply"] is mine


def test_an_apply_inside_another_one() -> None:
    optimizer, outer, inner = sgd(), Recorder(), Recorder()
    with _tracing.applying(optimizer, outer, OTHER):
        with pytest.raises(Broken), _tracing.applying(optimizer, inner, OTHER):
            updated(optimizer)
            raise Broken
        assert (outer, inner) == ([], [1.0])
        updated(optimizer)
    assert (outer, inner) == ([1.0], [1.0])
    assert "apply" not in vars(optimizer)
    assert updated(optimizer) == 4.0


# ---- Results of metrics -----------------------------------------------------------------------


class Measured(layers.Layer):
    """Layer with a metric, in the place of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = mean(3.0)

    @property
    def metrics(self) -> list[Any]:
        return [self.mean]


def test_results_of_this_thread_are_noted() -> None:
    model = Measured()
    with _tracing.results_noted(model) as noted:
        assert float(elsewhere(model.mean.result)) == 3.0
        assert noted == {}
        result = model.mean.result()
    model.mean.update_state(5.0)
    assert float(noted[id(result)].current()) == 4.0
    assert "result" not in vars(model.mean)


def test_a_result_of_the_object_is_there_again() -> None:
    model = Measured()

    def mine() -> float:
        return 7.0

    object.__setattr__(model.mean, "result", mine)
    with _tracing.results_noted(model) as noted:
        result = model.mean.result()
        assert (result, noted[id(result)].current()) == (7.0, 7.0)
    assert vars(model.mean)["result"] is mine


def test_notes_inside_others() -> None:
    model = Measured()
    with _tracing.results_noted(model) as outer:
        with pytest.raises(Broken), _tracing.results_noted(model) as inner:
            result = model.mean.result()
            raise Broken
        other = model.mean.result()
        assert id(other) not in inner
    count = len(outer)
    assert float(inner[id(result)].current()) == float(outer[id(other)].current()) == 3.0
    assert len(outer) == count  # Nothing is noted, and kept, from now on.
    assert "result" not in vars(model.mean)


# ---- Variables --------------------------------------------------------------------------------


def test_a_variable_has_its_own_value_again() -> None:
    variable = keras.Variable(1.0)
    own, outer, inner = variable.value, tf.Variable(2.0), tf.Variable(3.0)
    with _tracing.replaced([(variable, outer)]):
        with pytest.raises(Broken), _tracing.replaced([(variable, inner), (variable, inner)]):
            assert variable.value is inner
            raise Broken
        assert variable.value is outer
    assert variable.value is own


@pytest.mark.parametrize(
    "change",
    [
        lambda: _tracing.replaced([]),
        lambda: _tracing.applying(sgd(), Recorder(), OTHER),
        lambda: _tracing.results_noted(Measured()),
    ],
    ids=["variables", "updates", "results"],
)
def test_objects_are_changed_by_one_thread_at_a_time(
    change: Callable[[], contextlib.AbstractContextManager[Any]],
) -> None:
    def enter() -> None:
        with change():
            pass

    with change():
        other = in_thread(enter)
        assert waits(other)
        enter()  # This thread goes on.
    other.result(timeout=WAIT_S)
