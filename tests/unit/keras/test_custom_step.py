"""Models with their own training or test step, traced as workers run them, on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tf_backup.keras.custom_step import step_measurement, step_objective
from tf_backup.keras.optimizer import SyncReplicasWithBackup
from tf_backup.objective import Measurement, Objective

pytestmark = pytest.mark.slow  # Computes for seconds.

RNG = np.random.default_rng(5)
X = RNG.normal(size=[6, 4]).astype(np.float32)
Y = RNG.normal(size=[6, 2]).astype(np.float32)
BATCH = (X, Y)
SPEC = (tf.TensorSpec([None, 4]), tf.TensorSpec([None, 2]))

Tensor = Any
Values = list[Any]


class Own(keras.Model):  # type: ignore[misc]
    """Model that computes the mean squared error itself, and reports its metric and a scalar."""

    def __init__(self, *stack: Any) -> None:
        super().__init__()
        self.stack = list(stack) or [layers.Dense(3, activation="tanh"), layers.Dense(2)]
        self.error = keras.metrics.Mean(name="error")

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in self.stack:
            if isinstance(layer, layers.BatchNormalization | layers.Dropout):
                x = layer(x, training=training)
            else:
                x = layer(x)
        return x

    def squared(self, data: Any, training: bool) -> Tensor:
        x, y = data
        return tf.reduce_mean(tf.square(self(x, training=training) - y))

    def gradients(self, data: Any) -> tuple[Tensor, list[Any]]:
        with tf.GradientTape() as tape:
            loss = self.squared(data, training=True)
            scaled = self.optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, self.trainable_variables)

    def train_step(self, data: Any) -> Any:
        loss, gradients = self.gradients(data)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.error.update_state(loss, sample_weight=tf.shape(data[0])[0])
        return {"error": self.error.result(), "twice": 2.0 * loss}

    def test_step(self, data: Any) -> Any:
        loss = self.squared(data, training=False)
        self.error.update_state(loss, sample_weight=tf.shape(data[0])[0])
        return {"error": self.error.result(), "twice": 2.0 * loss}


def wrapped(optimizer: Any = None) -> Any:
    return SyncReplicasWithBackup(optimizer or keras.optimizers.SGD(1.0), replicas=2)


def built(model: Any, optimizer: Any = None, **options: Any) -> Any:
    """Return the compiled model with all its variables, with the same values each time."""
    model.compile(optimizer or wrapped(), **options)
    model._symbolic_build(data_batch=BATCH)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        value = rng.normal(scale=0.5, size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if weight.name == "moving_variance" else value)
    return model


def values_of(told: Objective | Measurement) -> Values:
    return [tf.convert_to_tensor(v) for v in told.read]


def run(
    told: Objective | Measurement,
    values: Values | None = None,
    batch: Any = BATCH,
    seed: Sequence[int] = (1, 0),
) -> Any:
    """Call the traced computation as a worker does."""
    values = values_of(told) if values is None else values
    batch = tf.nest.map_structure(tf.constant, batch)
    return told.compute(values, tf.constant(seed, tf.int64), batch)


def plain_gradients(model: Any, batch: Any = BATCH) -> list[Any]:
    """Return the gradients of the mean squared error from a plain tape."""
    x, y = batch
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
    return list(tape.gradient(loss, [v.value for v in model.trainable_variables]))


def assert_close(these: Sequence[Any], those: Sequence[Any]) -> None:
    for one, other in zip(these, those, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-5)


def moved(results: Any) -> list[Any]:
    return [change for change in results.changes if change is not None]


def snapshot(variables: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def all_variables(model: Any) -> list[Any]:
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(v): v for v in variables}.values())


def squared(model: Any, batch: Any = BATCH) -> float:
    """Return the mean squared error in training mode."""
    return float(tf.reduce_mean(tf.square(model(batch[0], training=True) - batch[1])))


# ---- What a step computes ---------------------------------------------------------------------


def test_gradients_equal_those_of_a_plain_tape():
    objective = step_objective(built(Own()), SPEC)
    results = run(objective)
    wanted = plain_gradients(built(Own()))
    assert_close(results.gradients, wanted)
    assert any(np.any(gradient) for gradient in wanted)


def test_sums_are_what_the_metrics_add():
    model = built(Own())
    results = run(step_objective(model, SPEC))
    sums = dict(zip([id(v) for v in model.metrics_variables], results.sums, strict=True))
    mine = [sums.pop(id(v)) for v in model.error.variables]
    assert_close(mine, [6 * squared(model), 6.0])
    assert list(sums.values()) == [None] * len(sums)  # Of Keras' loss tracker.


def test_sums_do_not_depend_on_what_the_metrics_have():
    model = built(Own())
    objective = step_objective(model, SPEC)
    fresh = run(objective).sums
    model.error.update_state(100.0)
    again = run(objective).sums
    assert_close([s for s in again if s is not None], [s for s in fresh if s is not None])


def test_a_scalar_is_a_report():
    model = built(Own())
    (report,) = run(step_objective(model, SPEC)).reports
    assert report.dtype == tf.float32
    np.testing.assert_allclose(report, 2 * squared(model), rtol=1e-5)


def test_values_are_those_it_is_given_and_not_the_variables():
    model = built(Own(layers.Dense(3), layers.BatchNormalization(), layers.Dense(2)))
    objective = step_objective(model, SPEC)
    before = run(objective)
    names = {id(v.value) for v in model.weights}
    values = [
        tf.convert_to_tensor(v) + 0.5 if id(v) in names else tf.convert_to_tensor(v)
        for v in objective.read
    ]
    other = run(objective, values)
    for weight in model.weights:
        weight.assign(weight + 0.5)
    again = run(objective)
    assert_close(other.gradients, again.gradients)
    assert_close(moved(other), moved(again))
    assert not np.allclose(other.gradients[0], before.gradients[0])
    assert_close(other.gradients, plain_gradients(model))


def test_one_trace_does_for_batches_of_any_size_and_many_calls():
    model = built(Own())
    objective = step_objective(model, SPEC)
    for size in (1, 6, 3):
        batch = (X[:size], Y[:size])
        results = run(objective, batch=batch)
        assert_close(results.gradients, plain_gradients(model, batch))
        (count,) = [float(s) for s in results.sums if s is not None and s == size]
        assert count == size


def test_nothing_of_the_model_changes():
    stack = [layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)]
    model = built(Own(*stack))
    before = snapshot(all_variables(model))
    run(step_objective(model, SPEC))
    for old, new in zip(before, snapshot(all_variables(model)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_worker_fetches_nothing_by_itself():
    objective = step_objective(built(Own(layers.Dropout(0.5), layers.Dense(2))), SPEC)
    inputs = objective.compute.captured_inputs
    assert not [tensor for tensor in inputs if tensor.dtype in (tf.resource, tf.variant)]


# ---- State ------------------------------------------------------------------------------------


def normalised() -> Own:
    return built(Own(layers.Dense(3), layers.BatchNormalization(momentum=0.8), layers.Dense(2)))


def test_batch_norm_statistics_change_as_keras_changes_them():
    changes = moved(run(step_objective(normalised(), SPEC)))
    model = normalised()
    before = snapshot(model.non_trainable_variables)
    model(X, training=True)
    after = snapshot(model.non_trainable_variables)
    assert_close(changes, [new - old for old, new in zip(before, after, strict=True)])
    assert all(np.any(change) for change in changes)


def test_state_that_is_only_read_does_not_change():
    norm = layers.BatchNormalization(trainable=False)
    model = built(Own(layers.Dense(3), norm, layers.Dense(2)))
    objective = step_objective(model, SPEC)
    assert run(objective).changes == [None] * 8


def test_state_that_the_step_itself_counts():
    class Counting(Own):
        def __init__(self) -> None:
            super().__init__()
            self.count = self.add_weight(name="count", dtype="int32", trainable=False)

        def train_step(self, data: Any) -> Any:
            logs = super().train_step(data)
            self.count.assign(self.count + 3)
            self.count.assign_add(1)
            return {**logs, "count": self.count}

    model = built(Counting())
    model.count.assign(10)
    results = run(step_objective(model, SPEC))
    (change,) = moved(results)
    assert (change.dtype, int(change)) == (tf.int32, 4)
    assert float(results.reports[-1]) == 14.0


def test_bool_state_that_changes_is_refused():
    class Flagged(Own):
        def __init__(self) -> None:
            super().__init__()
            self.flag = self.add_weight(
                name="flag", dtype="bool", initializer="zeros", trainable=False
            )

        def train_step(self, data: Any) -> Any:
            self.flag.assign(True)
            return super().train_step(data)

    model = Flagged()
    model.compile(wrapped())
    model(X)
    with pytest.raises(TypeError, match="flag' of dtype bool"):
        step_objective(model, SPEC)


def test_bool_state_that_a_branch_reads_is_fine():
    class Switched(Own):
        def __init__(self) -> None:
            super().__init__()
            self.flag = self.add_weight(
                name="flag", dtype="bool", initializer="zeros", trainable=False
            )

        def call(self, x: Any, training: bool = False) -> Any:
            y = super().call(x, training)
            flag = tf.convert_to_tensor(self.flag)
            return tf.cond(flag, lambda: y, lambda: y + tf.cast(self.flag.value, y.dtype))

    model = Switched()
    model.compile(wrapped())
    model._symbolic_build(data_batch=BATCH)
    results = run(step_objective(model, SPEC))
    assert_close(results.gradients, plain_gradients(model))


@pytest.mark.parametrize("other", [(3, 7), (2, 8)], ids=["worker", "step"])
def test_random_numbers_differ_by_worker_and_step(other: tuple[int, int]):
    model = built(Own(layers.Dense(50), layers.Dropout(0.5, seed=3), layers.Dense(2)))
    objective = step_objective(model, SPEC)
    one, same = run(objective, seed=(2, 7)), run(objective, seed=(2, 7))
    np.testing.assert_array_equal(one.gradients[0], same.gradients[0])
    assert not np.allclose(one.gradients[0], run(objective, seed=other).gradients[0])


def test_two_draws_of_one_generator_differ():
    class Drawing(Own):
        def __init__(self) -> None:
            super().__init__()
            self.generator = keras.random.SeedGenerator(1)

        def train_step(self, data: Any) -> Any:
            super().train_step(data)
            one, other = (keras.random.normal([], seed=self.generator) for _ in range(2))
            return {"one": one, "other": other}

    one, other = run(step_objective(built(Drawing()), SPEC)).reports
    assert float(one) != float(other)


# ---- What the chief does ----------------------------------------------------------------------


def test_apply_is_the_optimizers():
    ours, theirs = built(Own(), wrapped(keras.optimizers.Adam(0.1))), built(Own())
    other = keras.optimizers.Adam(0.1)
    gradients = [tf.ones(v.shape) for v in ours.trainable_variables]
    step_objective(ours, SPEC).apply(gradients)
    other.apply(gradients, theirs.trainable_variables)
    assert int(ours.optimizer.iterations) == 1
    assert_close(snapshot(ours.weights), snapshot(theirs.weights))


def test_results_are_metrics_as_they_are_and_the_means_of_reports():
    model = built(Own())
    objective = step_objective(model, SPEC)
    model.error.update_state([1.0, 4.0])
    logs = objective.results([tf.constant(7.0)])
    assert {name: float(value) for name, value in logs.items()} == {"error": 2.5, "twice": 7.0}


class Derived(Own):
    """Computes one number from a metric's result, and another from the result and a batch."""

    def derived(self, logs: Any) -> Any:
        logs["exp"] = tf.exp(logs["error"])
        logs["mixed"] = logs["error"] + logs.pop("twice")
        return logs

    def train_step(self, data: Any) -> Any:
        return self.derived(super().train_step(data))

    def test_step(self, data: Any) -> Any:
        return self.derived(super().test_step(data))


def test_what_a_step_computes_from_results_alone_is_computed_again():
    model = built(Derived())
    objective = step_objective(model, SPEC)
    (mixed,) = run(objective).reports
    np.testing.assert_allclose(mixed, 3 * squared(model), rtol=1e-5)
    model.error.update_state([1.0, 4.0])
    logs = {name: float(value) for name, value in objective.results([tf.constant(7.0)]).items()}
    assert logs == {"error": 2.5, "exp": pytest.approx(np.exp(2.5)), "mixed": 7.0}


def test_what_a_test_step_computes_from_results_alone_is_computed_again():
    measurement = step_measurement(built(Derived()), SPEC)
    parts = [run(measurement, batch=(X[:1], Y[:1])), run(measurement, batch=(X[1:], Y[1:]))]
    logs = measurement.results(tf.nest.map_structure(lambda *each: tf.add_n(each), *parts))
    np.testing.assert_allclose(logs["exp"], np.exp(logs["error"]), rtol=1e-5)
    assert float(logs["mixed"]) == pytest.approx(np.mean([part.reports[0] for part in parts]))


def test_updates_equal_keras_own():
    """With one worker, an update equals a `train_step` on one device."""
    ours, theirs = normalised(), normalised()
    theirs.compile(keras.optimizers.SGD(1.0))
    objective = step_objective(ours, SPEC)
    for _ in range(3):
        results = run(objective)
        pairs = zip(
            [*objective.state, *objective.sums], [*results.changes, *results.sums], strict=True
        )
        for variable, change in pairs:
            if change is not None:
                variable.assign_add(change)
        objective.apply(results.gradients)
        logs = objective.results(results.reports)
        wanted = theirs.train_step(tuple(map(tf.constant, BATCH)))
        assert sorted(logs) == sorted(wanted)
        assert_close([logs[name] for name in wanted], list(wanted.values()))
        assert_close(snapshot(ours.weights), snapshot(theirs.weights))


# ---- Forms that a step may have ---------------------------------------------------------------


class Tests:
    """Kinds of steps that must work."""

    class Apply(Own):
        """Calls `apply` without the variables."""

        def train_step(self, data: Any) -> Any:
            _, gradients = self.gradients(data)
            self.optimizer.apply(gradients)
            return {}

    class AppliesToItsWeights(Own):
        """Passes the variables to `apply`, in another order."""

        def train_step(self, data: Any) -> Any:
            _, gradients = self.gradients(data)
            self.optimizer.apply(gradients[::-1], self.trainable_weights[::-1])
            return {}

    class InFunction(Own):
        """Computes gradients in a `tf.function`."""

        def train_step(self, data: Any) -> Any:
            gradients = tf.function(lambda data: self.gradients(data)[1], autograph=False)(data)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {}

    class Persistent(Own):
        """Uses its tape twice."""

        def train_step(self, data: Any) -> Any:
            with tf.GradientTape(persistent=True) as tape:
                loss = self.squared(data, training=True)
            gradients = [tape.gradient(loss, v) for v in self.trainable_variables]
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {}

    class Watching(Own):
        """Watches the variables itself, with a tape that watches none automatically."""

        def train_step(self, data: Any) -> Any:
            watched = [v.value for v in self.trainable_variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                loss = self.squared(data, training=True)
            self.optimizer.apply(tape.gradient(loss, watched), self.trainable_variables)
            return {}


@pytest.mark.parametrize(
    "kind",
    [
        Tests.Apply,
        Tests.AppliesToItsWeights,
        Tests.InFunction,
        Tests.Persistent,
        Tests.Watching,
    ],
)
def test_gradients_however_the_step_computes_and_applies_them(kind: Callable[[], Any]):
    results = run(step_objective(built(kind()), SPEC))
    assert_close(results.gradients, plain_gradients(built(kind())))


def test_a_step_may_train_some_variables_only():
    class Head(Own):
        def train_step(self, data: Any) -> Any:
            _, gradients = self.gradients(data)
            self.optimizer.apply(gradients[2:], self.trainable_variables[2:])
            return {}

    gradients = run(step_objective(built(Head()), SPEC)).gradients
    assert gradients[:2] == [None, None]
    assert_close(gradients[2:], plain_gradients(built(Head()))[2:])


def test_what_has_no_gradient_has_none():
    class Spare(Own):
        def __init__(self) -> None:
            super().__init__()
            self.spare = self.add_weight(shape=[2], name="spare")

    model = built(Spare())
    gradients = run(step_objective(model, SPEC)).gradients
    names = [v.name for v in model.trainable_variables]
    assert [name for name, g in zip(names, gradients, strict=True) if g is None] == ["spare"]


def test_gradients_of_an_embedding_are_dense():
    class Words(Own):
        def __init__(self) -> None:
            super().__init__(layers.Embedding(7, 5), layers.Flatten(), layers.Dense(2))

        def call(self, x: Any, training: bool = False) -> Any:
            return super().call(tf.cast(tf.abs(x), tf.int32), training)

    objective = step_objective(built(Words()), SPEC)
    gradients = run(objective).gradients
    assert len(objective.read) >= len(objective.trainable)
    assert not any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
    assert_close(gradients, map(tf.convert_to_tensor, plain_gradients(built(Words()))))


def test_metrics_that_the_step_returns_by_keras_functions():
    class Compiled(Own):
        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                elif metric is not self.error:
                    metric.update_state(y, y_pred)
            return {metric.name: metric.result() for metric in self.metrics}

    model = built(Compiled(), loss="mse", metrics=["mae"])
    objective = step_objective(model, SPEC)
    results = run(objective)
    assert_close(results.gradients, plain_gradients(model))
    assert list(results.reports) == []
    for variable, total in zip(objective.sums, results.sums, strict=True):
        if total is not None:
            variable.assign_add(total)
    logs = objective.results([])
    assert sorted(logs) == ["compile_metrics", "error", "loss"]
    np.testing.assert_allclose(logs["loss"], squared(model), rtol=1e-5)
    mae = np.mean(np.abs(model(X) - Y))
    np.testing.assert_allclose(logs["compile_metrics"]["mae"], mae, rtol=1e-5)


class Super(Own):
    """Adds to the logs of Keras' own step."""

    def train_step(self, data: Any) -> Any:
        logs = super(Own, self).train_step(data)
        return {**logs, "more": tf.reduce_sum(data[1])}

    def test_step(self, data: Any) -> Any:
        logs = super(Own, self).test_step(data)
        return {**logs, "more": tf.reduce_sum(data[1])}


def test_regularisation_in_keras_own_step():
    def regularised(optimizer: Any) -> Any:
        first = layers.Dense(5, kernel_regularizer=keras.regularizers.L2(0.3))
        second = layers.Dense(2, activity_regularizer=keras.regularizers.L2(0.1))
        return built(Super(first, second), optimizer, loss="mse")

    gradients = run(step_objective(regularised(wrapped()), SPEC)).gradients
    model = regularised(keras.optimizers.SGD(1.0))
    before = snapshot(model.trainable_variables)
    model.train_on_batch(*BATCH)
    after = snapshot(model.trainable_variables)
    assert_close(gradients, [old - new for old, new in zip(before, after, strict=True)])


def test_keras_own_step_inside():
    model = built(Super(), loss="mse", metrics=["mae"])
    objective = step_objective(model, SPEC)
    results = run(objective)
    assert_close(results.gradients, plain_gradients(model))
    (report,) = results.reports
    np.testing.assert_allclose(report, Y.sum(), rtol=1e-4)
    for variable, total in zip(objective.sums, results.sums, strict=True):
        if total is not None:
            variable.assign_add(total)
    logs = objective.results([tf.constant(7.0)])
    np.testing.assert_allclose(logs["loss"], squared(model), rtol=1e-5)
    np.testing.assert_allclose(logs["mae"], np.mean(np.abs(model(X) - Y)), rtol=1e-5)
    assert float(logs["more"]) == 7.0


def test_plain_numbers_are_reports():
    class Numbers(Own):
        def train_step(self, data: Any) -> Any:
            super().train_step(data)
            return {"float": 1.5, "int": tf.constant(3), "bool": True}

    results = run(step_objective(built(Numbers()), SPEC))
    assert [report.dtype for report in results.reports] == [tf.float32] * 3
    assert [float(report) for report in results.reports] == [1.5, 3.0, 1.0]


def test_a_step_that_returns_nothing_to_tell():
    objective = step_objective(built(Tests.Apply()), SPEC)
    assert list(run(objective).reports) == []
    assert objective.results([]) == {}


# ---- The optimizer inside a step --------------------------------------------------------------


class Looking(Own):
    """Reports properties of its optimizer."""

    def train_step(self, data: Any) -> Any:
        super().train_step(data)
        return {
            "iterations": self.optimizer.iterations,
            "learning_rate": self.optimizer.learning_rate,
        }


def scaled(inner: Any) -> Any:
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "wrapped": wrapped,
    "scaled inside": lambda optimizer: wrapped(scaled(optimizer)),
    "scaled outside": lambda optimizer: scaled(wrapped(optimizer)),
}


@pytest.mark.parametrize("wrap", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_iterations_and_learning_rate_are_those_it_is_given(wrap: Callable[[Any], Any]):
    inner = keras.optimizers.SGD(0.25)
    objective = step_objective(built(Looking(), wrap(inner)), SPEC)
    inner.iterations.assign(5)
    inner.learning_rate = 0.5
    assert [float(report) for report in run(objective).reports] == [5.0, 0.5]


def test_a_learning_rate_by_a_schedule():
    inner = keras.optimizers.SGD(keras.optimizers.schedules.InverseTimeDecay(1.0, 1, 1.0))
    objective = step_objective(built(Looking(), wrapped(inner)), SPEC)
    inner.iterations.assign(3)
    assert [float(report) for report in run(objective).reports] == [3.0, 0.25]


@pytest.mark.parametrize("name", ["scaled inside", "scaled outside"])
def test_gradients_are_scaled_by_the_scale_that_it_is_given(name: str):
    model = built(Own(), OPTIMIZERS[name](keras.optimizers.SGD(1.0)))
    objective = step_objective(model, SPEC)
    scale = model.optimizer.dynamic_scale.value
    values = [tf.constant(16.0) if v is scale else tf.convert_to_tensor(v) for v in objective.read]
    for given, factor in ((None, 4.0), (values, 16.0)):
        results = run(objective, given)
        assert not moved(results)
        unscaled = [gradient / factor for gradient in results.gradients]
        assert_close(unscaled, plain_gradients(built(Own())))


def test_a_loss_scale_around_keras_own_step():
    model = built(Super(), OPTIMIZERS["scaled outside"](keras.optimizers.SGD(1.0)), loss="mse")
    gradients = run(step_objective(model, SPEC)).gradients
    assert_close([gradient / 4.0 for gradient in gradients], plain_gradients(model))


# ---- What is refused --------------------------------------------------------------------------


def refusing(step: Callable[[Any, Any], Any]) -> Any:
    """Return a model with the given `train_step`."""

    class Refused(Own):
        def train_step(self, data: Any) -> Any:
            return step(self, data)

    return built(Refused())


def computes_and_applies_twice(model: Any, data: Any) -> Any:
    for _ in range(2):
        _, gradients = model.gradients(data)
        model.optimizer.apply(gradients, model.trainable_variables)
    return {}


def gradients_once_applied_twice(model: Any, data: Any) -> Any:
    _, gradients = model.gradients(data)
    for part in (slice(0, 2), slice(2, 4)):
        model.optimizer.apply(gradients[part], model.trainable_variables[part])
    return {}


def never(model: Any, data: Any) -> Any:
    model.gradients(data)
    return {}


def foreign(model: Any, data: Any) -> Any:
    _, gradients = model.gradients(data)
    others = [*model.trainable_variables[:-1], model.spare]
    model.optimizer.apply(gradients, others)
    return {}


def predicts_after(model: Any, data: Any) -> Any:
    Own.train_step(model, data)
    return {"after": tf.reduce_mean(model(data[0]))}


def differentiates_after(model: Any, data: Any) -> Any:
    Own.train_step(model, data)
    _, gradients = model.gradients(data)
    return {"after": tf.linalg.global_norm(gradients)}


def averages_after(model: Any, data: Any) -> Any:
    Own.train_step(model, data)
    return {"after": tf.reduce_sum(model.trainable_variables[0] * 0.5)}


def assigns_after(model: Any, data: Any) -> Any:
    Own.train_step(model, data)
    model.trainable_variables[0].assign_add(tf.ones([4, 3]))
    return {}


def a_tensor(model: Any, data: Any) -> Any:
    Own.train_step(model, data)
    return tf.constant(1.0)


def nothing(model: Any, data: Any) -> Any:
    Own.train_step(model, data)


def a_vector(model: Any, data: Any) -> Any:
    Own.train_step(model, data)
    return {"vector": data[0][0]}


REFUSED: list[tuple[Callable[[Any, Any], Any], type[Exception], str]] = [
    (computes_and_applies_twice, ValueError, "Refused.train_step uses the variable .* after it"),
    (gradients_once_applied_twice, ValueError, "Refused.train_step applies gradients more than"),
    (never, ValueError, "Refused.train_step applies no gradients with the optimizer"),
    (foreign, ValueError, "applies a gradient to 'elsewhere', which is none of"),
    (predicts_after, ValueError, "Refused.train_step uses the variable '.*kernel' after"),
    (differentiates_after, ValueError, "Refused.train_step uses the variable '.*kernel' after"),
    (averages_after, ValueError, "Refused.train_step uses the variable '.*kernel' after"),
    (assigns_after, ValueError, "Refused.train_step uses the variable '.*kernel' after"),
    (a_tensor, TypeError, "Refused.train_step returned .*Tensor; it must return a dict"),
    (nothing, TypeError, "Refused.train_step returned NoneType; it must return a dict"),
    (a_vector, TypeError, r"returned 'vector' of shape \(4,\); what it returns must be"),
]


@pytest.mark.parametrize(
    ("step", "error", "message"), REFUSED, ids=[step.__name__ for step, _, _ in REFUSED]
)
def test_refused(step: Callable[[Any, Any], Any], error: type[Exception], message: str):
    model = refusing(step)
    # In none of the model's lists: set so that Keras does not track it.
    object.__setattr__(model, "spare", keras.Variable(np.zeros([2]), name="elsewhere"))
    values = [(v, v.value) for v in all_variables(model)]
    before = snapshot(all_variables(model))
    with pytest.raises(error, match=message):
        step_objective(model, SPEC)
    assert all(variable.value is value for variable, value in values)
    for old, new in zip(before, snapshot(all_variables(model)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_another_optimizer_is_refused():
    def by_the_second(model: Any, data: Any) -> Any:
        _, gradients = model.gradients(data)
        model.second.apply(gradients, model.trainable_variables)
        return {}

    model = refusing(by_the_second)
    model.second = keras.optimizers.SGD(0.1)
    model.second.build(model.trainable_variables)
    with pytest.raises(ValueError, match="Other optimizers cannot be used"):
        step_objective(model, SPEC)


def test_assigning_to_what_is_trained_before_apply():
    class Clipping(Own):
        def train_step(self, data: Any) -> Any:
            for variable in self.trainable_variables:
                variable.assign(tf.clip_by_value(variable, -0.1, 0.1))
            return super().train_step(data)

    results = run(step_objective(built(Clipping()), SPEC))
    model = built(Own())
    before = snapshot(model.trainable_variables)
    for variable in model.trainable_variables:
        variable.assign(tf.clip_by_value(variable, -0.1, 0.1))
    assert_close(results.gradients, plain_gradients(model))
    after = snapshot(model.trainable_variables)
    assert_close(moved(results), [new - old for old, new in zip(before, after, strict=True)])


def test_a_variable_that_keras_does_not_know_is_refused():
    class Hidden(Own):
        def train_step(self, data: Any) -> Any:
            logs = super().train_step(data)
            return {**logs, "hidden": tf.convert_to_tensor(hidden)}

    hidden = tf.Variable(1.0)
    with pytest.raises(ValueError, match="lies in the chief's process"):
        step_objective(built(Hidden()), SPEC)


# ---- The model is as before -------------------------------------------------------------------


class Broken(RuntimeError):
    """Error that a step raises."""


@pytest.mark.parametrize("make", [step_objective, step_measurement])
@pytest.mark.parametrize("when", ["never", "before", "after"])
def test_the_model_is_its_own_again(when: str, make: Callable[..., Any]):
    class Raising(Own):
        def train_step(self, data: Any) -> Any:
            if when == "before":
                raise Broken
            logs = super().train_step(data)
            if when == "after":
                raise Broken
            return logs

        def test_step(self, data: Any) -> Any:
            logs = super().test_step(data)
            if when != "never":
                raise Broken
            return logs

    model = built(Raising(layers.Dense(3), layers.Dropout(0.5), layers.Dense(2)))
    variables = all_variables(model)
    values = [variable.value for variable in variables]
    own = [dict(vars(thing)) for thing in (model.optimizer, model.error)]
    if when == "never":
        make(model, SPEC)
    else:
        with pytest.raises(Broken):
            make(model, SPEC)
    assert all(v.value is value for v, value in zip(variables, values, strict=True))
    for thing, attributes in zip((model.optimizer, model.error), own, strict=True):
        assert sorted(vars(thing)) == sorted(attributes)
    # It trains and reports, as any model does.
    before = snapshot(model.trainable_variables)
    model.optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables])
    after = snapshot(model.trainable_variables)
    assert_close(after, [old - 1.0 for old in before])
    model.error.update_state(3.0)
    assert float(model.error.result()) == 3.0


def test_it_can_be_traced_again():
    model = built(Own())
    objectives = [step_objective(model, SPEC) for _ in range(2)]
    one, other = map(run, objectives)
    assert_close(one.gradients, other.gradients)


# ---- Evaluation -------------------------------------------------------------------------------


def evaluated(model: Any, batches: Sequence[Any]) -> tuple[Measurement, Any]:
    """Return a model's measurement, and its sums over the batches."""
    measurement = step_measurement(model, SPEC)
    parts = [run(measurement, batch=batch) for batch in batches]
    return measurement, tf.nest.map_structure(lambda *each: tf.add_n(list(each)), *parts)


BATCHES = [(X[:4], Y[:4]), (X[4:], Y[4:])]


def test_evaluation_is_exact_in_metrics_and_a_mean_over_batches_in_scalars():
    model = normalised()
    before = snapshot(model.weights)
    measurement, sums = evaluated(model, BATCHES)
    logs = measurement.results(sums)
    errors = [float(np.mean(np.square(model(x) - y))) for x, y in BATCHES]
    assert sorted(logs) == ["error", "twice"]
    np.testing.assert_allclose(logs["error"], (4 * errors[0] + 2 * errors[1]) / 6, rtol=1e-5)
    np.testing.assert_allclose(logs["twice"], errors[0] + errors[1], rtol=1e-5)
    assert_close(snapshot(model.weights), before)


def test_evaluation_computes_with_the_values_that_it_is_given():
    model = normalised()
    measurement = step_measurement(model, SPEC)
    names = {id(v.value) for v in model.weights}
    values = [
        tf.convert_to_tensor(v) + 0.5 if id(v) in names else tf.convert_to_tensor(v)
        for v in measurement.read
    ]
    sums = run(measurement, values)
    for weight in model.weights:
        weight.assign(weight + 0.5)
    assert_close(tf.nest.flatten(sums), tf.nest.flatten(run(measurement)))


def test_evaluation_by_keras_own_step_inside():
    model = built(Super(), loss="mse", metrics=["mae"])
    measurement, sums = evaluated(model, BATCHES)
    logs = measurement.results(sums)
    np.testing.assert_allclose(logs["loss"], squared(model), rtol=1e-5)
    np.testing.assert_allclose(logs["mae"], np.mean(np.abs(model(X) - Y)), rtol=1e-5)
    np.testing.assert_allclose(logs["more"], Y.sum() / 2, rtol=1e-4)


class Listed(Own):
    """Lists its metrics itself, as in Keras' guide, without Keras' own loss."""

    @property
    def metrics(self) -> list[Any]:
        return [self.error]


def test_a_model_that_lists_its_metrics():
    model = built(Listed())
    objective = step_objective(model, SPEC)
    results = run(objective)
    assert_close(results.gradients, plain_gradients(model))
    sums = [total for total in results.sums if total is not None]
    assert_close(sums, [6 * squared(model), 6.0])
    measurement, sums = evaluated(model, BATCHES)
    assert sorted(measurement.results(sums)) == ["error", "twice"]


def test_evaluation_may_have_no_optimizer():
    model = Own()
    model.compile(None)
    model(X)
    measurement, sums = evaluated(model, BATCHES)
    assert float(measurement.results(sums)["error"]) > 0


def test_a_test_step_must_return_scalars():
    class Vectors(Own):
        def test_step(self, data: Any) -> Any:
            return {"vector": data[0][0]}

    with pytest.raises(TypeError, match=r"Vectors.test_step returned 'vector' of shape \(4,\)"):
        step_measurement(built(Vectors()), SPEC)
