"""Computation of a Keras model in tensors, compared with Keras' own training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup.keras.model_objective import keras_measurement, keras_objective
from tf_backup.keras.optimizer import SyncReplicasWithBackup
from tf_backup.keras.variables import KerasVariables
from tf_backup.objective import Measurement, Objective, Results, traced

pytestmark = pytest.mark.slow  # Computes for seconds.

RNG = np.random.default_rng(5)
X = RNG.normal(size=[6, 4]).astype(np.float32)
Y = np.array([0, 2, 1, 1, 0, 2])
WEIGHTS = np.array([1.0, 2.0, 0.0, 0.5, 1.0, 3.0], np.float32)
BATCHES = {"x y": (X, Y), "x y weights": (X, Y, WEIGHTS)}

layers = keras.layers
Model = Any
Values = list[Any]


def plain() -> list[Any]:
    return [layers.Dense(5, activation="tanh"), layers.Dense(3)]


def regularised() -> list[Any]:
    return [
        layers.Dense(5, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.3)),
        layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.1)),
    ]


def normalised() -> list[Any]:
    return [layers.Dense(5), layers.BatchNormalization(momentum=0.8), layers.Dense(3)]


def frozen() -> list[Any]:
    return [layers.Dense(5, trainable=False), layers.Dense(3)]


def dropping() -> list[Any]:
    return [layers.Dense(50), layers.Dropout(0.5, seed=3), layers.Dense(3)]


def noisy() -> list[Any]:
    inside = keras.Sequential([layers.GaussianNoise(1.0), layers.Dense(5)])
    return [inside, layers.Dense(3)]


def build(stack: Sequence[Any], optimizer: Any = None, **options: Any) -> Model:
    """Return a compiled model with all its variables, with the same values each time."""
    model = keras.Sequential([keras.Input([4]), *stack])
    options.setdefault("metrics", ["accuracy"])
    options.setdefault("weighted_metrics", [keras.metrics.SparseCategoricalCrossentropy()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(1.0), loss, **options)
    return start(model, (X, Y))


def start(model: Model, batch: Any) -> Model:
    """Create all variables of a compiled model, and set its weights."""
    model._symbolic_build(data_batch=batch)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        value = rng.normal(scale=0.5, size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if weight.name == "moving_variance" else value)
    return model


def values_of(told: Objective | Measurement) -> Values:
    return [tf.convert_to_tensor(v) for v in told.read]


def spec_of(batch: Any) -> Any:
    """Return the spec of batches like this one, for any batch size."""
    tensors = tf.nest.map_structure(tf.constant, batch)
    return tf.nest.map_structure(
        lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), tensors
    )


SPEC = spec_of((X, Y))


def run(
    told: Objective | Measurement, values: Values, batch: Any = (X, Y), seed: Sequence[int] = (1, 0)
) -> Any:
    """Call the traced computation as a worker does."""
    batch = tf.nest.map_structure(tf.constant, batch)
    return told.compute(values, tf.constant(seed, tf.int64), batch)


def compute(model: Model, batch: Any = (X, Y), seed: Sequence[int] = (1, 0)) -> Results:
    """Return the results on a batch, at the current values of the variables."""
    objective = keras_objective(model, spec_of(batch))
    return run(objective, values_of(objective), batch, seed)


def assert_close(these: Sequence[Any], those: Sequence[Any]) -> None:
    for one, other in zip(these, those, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-5)


def moved(results: Results) -> list[Any]:
    return [change for change in results.changes if change is not None]


def snapshot(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


# ---- One step is Keras' own step --------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("stack", [plain, regularised, normalised, frozen])
def test_a_step_equals_keras_own(stack: Callable[[], list[Any]], batch: Any):
    results = compute(build(stack()), batch)
    model = build(stack())
    trainable, state = model.trainable_variables, model.non_trainable_variables
    before = snapshot(trainable), snapshot(state)
    model.train_on_batch(*batch)  # With SGD of learning rate 1.
    steps = [old - new for old, new in zip(before[0], snapshot(trainable), strict=True)]
    changed = [new - old for old, new in zip(before[1], snapshot(state), strict=True)]
    assert_close(results.gradients, steps)
    changes = [
        np.zeros(old.shape) if change is None else change
        for change, old in zip(results.changes, [*before[1], *before[0]], strict=True)
    ]
    assert_close(changes, [*changed, *(np.zeros(old.shape) for old in before[0])])
    assert_close(results.sums, snapshot(model.metrics_variables))
    assert any(np.any(total) for total in results.sums)


def test_gradients_equal_those_of_a_plain_tape():
    model = build(plain())
    results = compute(model)
    with tf.GradientTape() as tape:
        each = keras.losses.sparse_categorical_crossentropy(Y, model(X), from_logits=True)
        loss = tf.reduce_mean(each)
    parameters = [v.value for v in model.trainable_variables]
    assert_close(results.gradients, tape.gradient(loss, parameters))


def test_regularisation_is_part_of_the_gradient():
    model = build([layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.3))])
    without = build([layers.Dense(3)])
    kernel = model.trainable_variables[0].numpy()
    ours, theirs = compute(model).gradients, compute(without).gradients
    assert_close([ours[0] - theirs[0], ours[1] - theirs[1]], [2 * 0.3 * kernel, np.zeros(3)])


def test_values_are_those_it_is_given_and_not_the_variables():
    model = build(normalised())
    objective = keras_objective(model, SPEC)
    before = run(objective, values_of(objective))
    values = [value + 0.5 for value in values_of(objective)]
    results = run(objective, values)
    for variable, value in zip(objective.read, values, strict=True):
        variable.assign(value)
    moved = compute(model)
    assert_close(results.gradients, moved.gradients)
    assert_close(
        [c for c in results.changes if c is not None], [c for c in moved.changes if c is not None]
    )
    assert not np.allclose(results.gradients[0], before.gradients[0])


def test_sums_are_what_one_batch_adds_however_much_there_is():
    model = build(plain())
    fresh = compute(model).sums
    model.train_on_batch(X, Y)
    model.set_weights(build(plain()).get_weights())
    assert any(np.any(v) for v in snapshot(model.metrics_variables))
    assert_close(compute(model).sums, fresh)


def test_inputs_by_name():
    def by_name() -> Model:
        one, two = keras.Input([4], name="one"), keras.Input([4], name="two")
        model = keras.Model({"one": one, "two": two}, layers.Dense(1)(one - 2.0 * two))
        model.compile(keras.optimizers.SGD(1.0), "mse")
        return start(model, batch)

    batch = ({"one": X, "two": X + 1}, Y[:, None].astype(np.float32))
    model = by_name()
    before = snapshot(model.trainable_variables)
    model.train_on_batch(*batch)
    moved = [
        old - new for old, new in zip(before, snapshot(model.trainable_variables), strict=True)
    ]
    assert_close(compute(by_name(), batch).gradients, moved)


# ---- It is a pure function --------------------------------------------------------------------


def scaling() -> Any:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))


SCALED: dict[str, Callable[[], Any]] = {
    "alone": scaling,
    "inside": lambda: SyncReplicasWithBackup(scaling(), replicas=1),
    "outside": lambda: keras.optimizers.LossScaleOptimizer(
        SyncReplicasWithBackup(keras.optimizers.SGD(1.0), replicas=1)
    ),
}


def captured(model: Model) -> list[Any]:
    """Return the variables that a worker would have to fetch itself."""
    inputs = keras_objective(model, SPEC).compute.captured_inputs
    return [tensor for tensor in inputs if tensor.dtype == tf.resource]


@pytest.mark.parametrize("stack", [regularised, normalised, frozen, dropping, noisy])
def test_it_captures_no_variable(stack: Callable[[], list[Any]]):
    assert captured(build(stack())) == []


@pytest.mark.parametrize("optimizer", SCALED.values(), ids=SCALED.keys())
def test_it_captures_no_loss_scale(optimizer: Callable[[], Any]):
    assert captured(build(plain(), optimizer())) == []


@pytest.mark.parametrize("stack", [normalised, dropping])
def test_it_changes_no_variable(stack: Callable[[], list[Any]]):
    model = build(stack())
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = snapshot(variables)
    compute(model)
    for old, new in zip(before, snapshot(variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_batches_of_any_size_fit_one_trace():
    objective = keras_objective(build(plain()), SPEC)
    values, counts = values_of(objective), []
    for size in (1, 6):
        counts.append(float(run(objective, values, (X[:size], Y[:size])).sums[1]))
    assert counts == [1.0, 6.0]


class Labels(layers.Layer):
    """Uses a resource of the process that created it."""

    def __init__(self, resource: str) -> None:
        super().__init__()
        keys = tf.constant([0, 1], tf.int64), tf.constant([2.0, 3.0])
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(*keys), 1.0)
        hidden = tf.Variable(2.0)
        self.factor = {
            "table": lambda: table.lookup(tf.constant(1, tf.int64)),
            "variable": lambda: tf.convert_to_tensor(hidden),
        }[resource]

    def call(self, x: Any) -> Any:
        return x * self.factor()


@pytest.mark.parametrize("make", [keras_objective, keras_measurement])
@pytest.mark.parametrize("resource", ["table", "variable"])
def test_what_lies_in_the_chiefs_process_is_refused(resource: str, make: Callable[..., Any]):
    model = build([Labels(resource), layers.Dense(3)])
    with pytest.raises(ValueError, match="lies in the chief's process"):
        make(model, SPEC)


class Elsewhere(layers.Layer):
    """Assigns to a variable that is not part of the model."""

    def __init__(self, variable: Any) -> None:
        super().__init__()
        self.others = (lambda: variable,)  # Keras does not look into functions.

    def call(self, x: Any) -> Any:
        self.others[0]().assign(1.0)
        return x


@pytest.mark.parametrize("make", [keras_objective, keras_measurement])
def test_assigning_to_what_is_no_part_of_the_model_is_refused(make: Callable[..., Any]):
    variable = keras.Variable(2.0, name="hidden")
    model = build([Elsewhere(variable), layers.Dense(3)])
    with pytest.raises(ValueError, match="assigns to the variable 'hidden', which is no part of"):
        make(model, SPEC)


class Halving(layers.Dense):
    """Assigns to its weight whenever it is called."""

    def call(self, x: Any) -> Any:
        self.kernel.assign(0.5 * self.kernel)
        return super().call(x)


def test_a_weight_that_is_assigned_to_is_one_devices():
    results = compute(build([Halving(3)]))
    model = build([Halving(3)])
    before = snapshot(model.trainable_variables)
    model.train_on_batch(X, Y)
    after = [
        value - gradient + (0 if change is None else change)
        for value, gradient, change in zip(before, results.gradients, results.changes, strict=True)
    ]
    assert_close(after, snapshot(model.trainable_variables))
    assert_close(moved(results), [-0.5 * before[0]])


def test_evaluation_says_that_it_keeps_nothing_that_is_assigned(caplog: pytest.LogCaptureFixture):
    keras_measurement(build([Halving(3)]), SPEC)
    (record,) = caplog.records
    assert "Evaluating the model assigns to 'sequential" in record.getMessage()
    assert "every batch is evaluated with the values that training has left" in record.getMessage()


def test_traced_gives_values_seed_and_batch():
    read = [tf.Variable([1.0, 2.0]), tf.Variable(3)]

    def parts(values: Values, seed: Any, batch: Any) -> Any:
        return {"values": values, "seed": seed, "batch": batch}

    function = traced(parts, read, tf.TensorSpec([None], tf.string))
    given = (
        [tf.constant([5.0, 6.0]), tf.constant(7)],
        tf.constant([8, 9], tf.int64),
        tf.constant(["a"]),
    )
    told = function(*given)
    tf.nest.map_structure(
        np.testing.assert_array_equal, [told["values"], told["seed"], told["batch"]], list(given)
    )
    assert list(function.structured_outputs["values"][0].shape) == [2]


def test_traced_allows_the_tables_it_is_told_of_and_no_other():
    table, other = tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])

    def gather(values: Values, seed: Any, batch: Any) -> Any:
        del values, seed
        return tf.gather(table, batch)

    spec = tf.TensorSpec([], tf.int32)
    function = traced(gather, [], spec, tables=[table])
    assert float(function([], tf.constant([0, 0], tf.int64), tf.constant(1))) == 2.0
    with pytest.raises(ValueError, match="lies in the chief's process"):
        traced(gather, [], spec, tables=[other])


# ---- State ------------------------------------------------------------------------------------


def test_state_that_does_not_change_is_none():
    assert compute(build(plain())).changes == [None] * 4
    assert compute(build(frozen())).changes == [None] * 4


def test_batch_norm_that_is_frozen_does_not_move():
    stack = [layers.Dense(5), layers.BatchNormalization(trainable=False), layers.Dense(3)]
    results = compute(build(stack))
    assert results.changes == [None] * 8


def test_gradient_of_what_is_not_used_is_none():
    class Unused(layers.Layer):
        def build(self, shape: Any) -> None:
            self.spare = self.add_weight(shape=[2], name="spare")

        def call(self, x: Any) -> Any:
            return x

    model = build([layers.Dense(3), Unused()])
    assert [v.name for v in model.trainable_variables] == ["kernel", "bias", "spare"]
    assert [g is None for g in compute(model).gradients] == [False, False, True]


def test_state_is_what_does_not_train_but_for_seeds():
    model = build([*normalised()[:2], *dropping()])
    variables = KerasVariables(model, model.optimizer)
    assert [v.name for v in variables.state] == ["moving_mean", "moving_variance"]
    assert len(variables.seeds) == 1 + 1  # Plus that of the global generator.


class Drawing(layers.Layer):
    """Has a seed generator that other layers may share."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(tf.shape(x), seed=self.generator)


def test_seeds_are_found_in_models_in_models_and_once_each():
    generator = keras.random.SeedGenerator(1)
    inside = keras.Sequential([keras.Input([4]), Drawing(generator), layers.Dropout(0.5)])
    model = build([inside, Drawing(generator), layers.Dense(3)])
    variables = KerasVariables(model, model.optimizer)
    assert variables.state == []
    assert len(variables.seeds) == 2 + 1  # Plus that of the global generator.


# ---- Random numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [dropping, noisy])
def test_same_seed_same_numbers(stack: Callable[[], list[Any]]):
    model = build(stack())
    first, second = compute(model, seed=(2, 7)), compute(model, seed=(2, 7))
    for one, other in zip(first.gradients, second.gradients, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("other", [(3, 7), (2, 8), (7, 2)], ids=["worker", "step", "swapped"])
@pytest.mark.parametrize("stack", [dropping, noisy])
def test_other_worker_or_step_other_numbers(stack: Callable[[], list[Any]], other: tuple[int, int]):
    model = build(stack())
    first, second = compute(model, seed=(2, 7)), compute(model, seed=other)
    assert not np.allclose(first.gradients[0], second.gradients[0])


def test_the_users_seed_counts():
    def gradients(seed: int) -> Any:
        stack = [layers.Dense(50), layers.Dropout(0.5, seed=seed), layers.Dense(3)]
        return compute(build(stack)).gradients[0]

    np.testing.assert_array_equal(gradients(3), gradients(3))
    assert not np.allclose(gradients(3), gradients(4))


def test_layer_that_draws_from_keras_own_generator_draws_other_numbers_each_step():
    class Noise(layers.Layer):
        def call(self, x: Any) -> Any:
            return x + keras.random.normal(tf.shape(x))

    model = build([Noise(), layers.Dense(3)])
    first, second = compute(model, seed=(2, 7)), compute(model, seed=(2, 8))
    assert not np.allclose(first.gradients[0], second.gradients[0])


def test_two_dropouts_draw_different_numbers():
    class Both(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = layers.Dropout(0.5), layers.Dropout(0.5)

        def call(self, x: Any, training: bool = False) -> Any:
            ones = tf.ones([tf.shape(x)[0], 100])
            same = self.one(ones, training=training) == self.two(ones, training=training)
            return x * tf.reduce_mean(tf.cast(same, x.dtype))

    # If the draws always differed, gradients would be 0; if they were the same, whole.
    model = build([Both(), layers.Dense(3)])
    whole = compute(build([layers.Dense(3)])).gradients[0]
    half = compute(model).gradients[0]
    assert not np.allclose(half, whole)
    assert np.any(half)


# ---- Mixed precision --------------------------------------------------------------------------


def test_gradients_are_scaled_by_the_scale_that_it_is_given():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=4.0)
    objective = keras_objective(build(plain(), optimizer), SPEC)
    *values, scale = values_of(objective)
    assert float(scale) == 4.0
    results = run(objective, [*values, tf.constant(16.0)])
    assert not any(change is not None for change in results.changes)
    wanted = compute(build(plain())).gradients
    assert_close([gradient / 16.0 for gradient in results.gradients], wanted)


# ---- The rest ---------------------------------------------------------------------------------


def test_apply_is_the_optimizers():
    ours, theirs = (build(plain(), keras.optimizers.Adam(0.1)) for _ in range(2))
    gradients = [tf.ones(v.shape) for v in ours.trainable_variables]
    keras_objective(ours, SPEC).apply(gradients)
    theirs.optimizer.apply(gradients, theirs.trainable_variables)
    assert int(ours.optimizer.iterations) == 1
    assert_close(snapshot(ours.variables), snapshot(theirs.variables))


def test_sums_that_are_added_make_the_results():
    model = build(plain())
    objective = keras_objective(model, SPEC)
    for variable, total in zip(objective.sums, compute(model).sums, strict=True):
        variable.assign_add(total)
    logs = objective.results([])
    wanted = build(plain()).train_on_batch(X, Y, return_dict=True)
    assert sorted(logs) == sorted(wanted)
    assert_close([logs[name] for name in wanted], list(wanted.values()))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_jit_compile_is_the_models(jit_compile: bool):
    objective = keras_objective(build(plain(), jit_compile=jit_compile), SPEC)
    assert objective.compute.function_def.attr["_XlaMustCompile"].b is jit_compile


def test_compiled_gradients_are_the_same():
    ours, theirs = compute(build(normalised(), jit_compile=True)), compute(build(normalised()))
    assert_close(ours.gradients, theirs.gradients)
    assert_close(moved(ours), moved(theirs))
    assert_close(ours.sums, theirs.sums)


def test_there_are_sums_for_every_metric_and_no_reports():
    results = compute(build(plain()))
    assert list(results.reports) == []
    assert len(results.sums) == 2 + 2 + 2  # Loss, accuracy, cross-entropy.


# ---- Evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("stack", [regularised, normalised, dropping])
def test_evaluation_sums_equal_keras_own(stack: Callable[[], list[Any]], batch: Any):
    model = build(stack())
    measurement = keras_measurement(model, spec_of(batch))
    before = snapshot(model.variables)
    totals = run(measurement, values_of(measurement), batch)
    for old, new in zip(before, snapshot(model.variables), strict=True):
        np.testing.assert_array_equal(old, new)
    other = build(stack())
    wanted = other.test_on_batch(*batch, return_dict=True)
    assert_close(totals.sums, snapshot(other.metrics_variables))
    assert any(np.any(total) for total in totals.sums)
    logs = measurement.results(totals)
    assert sorted(logs) == sorted(wanted)
    assert_close([logs[name] for name in wanted], list(wanted.values()))


def test_evaluation_adds_to_what_the_metrics_have():
    model = build(plain())
    measurement = keras_measurement(model, SPEC)
    totals = run(measurement, values_of(measurement))
    once = measurement.results(totals)
    assert_close(list(measurement.results(totals).values()), list(once.values()))
    assert_close(snapshot(model.metrics_variables), [2 * total for total in totals.sums])


def test_evaluation_computes_with_the_values_that_it_is_given():
    model = build(normalised())
    measurement = keras_measurement(model, SPEC)
    sums = run(measurement, [value + 0.5 for value in values_of(measurement)]).sums
    for weight in model.weights:
        weight.assign(weight + 0.5)
    assert_close(sums, run(measurement, values_of(measurement)).sums)


def test_evaluation_needs_no_optimizer():
    model = build(plain(), scaling())
    measurement = keras_measurement(model, SPEC)
    assert len(measurement.read) == len(model.weights)
    assert KerasVariables(model, None).state == []
    assert [v.name for v in KerasVariables(model, model.optimizer).state] == ["dynamic_scale"]


def test_evaluation_of_a_model_that_lists_its_metrics():
    """As in Keras' guide to train_step: metrics that are not listed are not reported."""

    class Listed(keras.Sequential):  # type: ignore[misc]
        @property
        def metrics(self) -> list[Any]:
            return [self.error]

    def listed() -> Model:
        model = Listed([keras.Input([4]), *plain()])
        model.error = keras.metrics.Mean(name="error")
        model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(True))
        return start(model, (X, Y))

    measurement = keras_measurement(listed(), SPEC)
    logs = measurement.results(run(measurement, values_of(measurement)))
    assert sorted(logs) == sorted(listed().test_on_batch(X, Y, return_dict=True))


# ---- Logs of the model's own compute_metrics --------------------------------------------------


class Reporting(keras.Sequential):  # type: ignore[misc]
    """Changes what Keras reports: adds to it, renames one result and drops another."""

    def __init__(self) -> None:
        super().__init__([keras.Input([4]), *plain()])
        self.positive = keras.metrics.Mean(name="positive")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        self.positive.update_state(keras.ops.cast(y_pred > 0.0, "float32"))
        logs["positive"] = self.positive.result()  # As in Keras' example.
        logs["perplexity"] = keras.ops.exp(logs["loss"])
        logs["right"] = logs.pop("accuracy")
        logs["both"] = keras.ops.stack([logs["right"], logs.pop("cross")])
        logs["first"] = y_pred[0, 0]
        return logs


def reporting(kind: Callable[[], Model] = Reporting, **options: Any) -> Model:
    model = kind()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    cross = keras.metrics.SparseCategoricalCrossentropy(name="cross", from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy", cross], **options)
    return start(model, (X, Y))


PARTS = [(X[:1], Y[:1]), (X[1:], Y[1:])]  # Of different size, so that no mean of means is right.


def in_parts() -> tf.data.Dataset:
    first, second = (tf.data.Dataset.from_tensors(part) for part in PARTS)
    return first.concatenate(second)


def assert_logs(logs: dict[str, Any], wanted: dict[str, Any], firsts: Sequence[Any]) -> None:
    """Check for the logs of one device, but the mean of what depends on the batch."""
    wanted = {**wanted, "first": np.mean([float(first) for first in firsts])}
    assert sorted(logs) == sorted(wanted)
    assert_close([logs[name] for name in sorted(wanted)], [wanted[name] for name in sorted(wanted)])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_logs_what_compute_metrics_returns(jit_compile: bool):
    model, plain = reporting(jit_compile=jit_compile), reporting()
    objective = keras_objective(model, SPEC)
    each = [run(objective, values_of(objective), part) for part in PARTS]
    for results in each:
        for variable, total in zip(objective.sums, results.sums, strict=True):
            variable.assign_add(total)
    plain.fit(in_parts(), shuffle=False, verbose=0)
    wanted = {name: value for name, (value,) in plain.history.history.items()}
    assert_close(snapshot(model.metrics_variables), snapshot(plain.metrics_variables))
    (mean,) = np.mean([results.reports for results in each], axis=0)
    firsts = [plain(x)[0, 0] for x, _ in PARTS]
    assert {"perplexity", "right", "both"} < {*wanted}
    assert_logs(tf.function(objective.results)([tf.constant(mean)]), wanted, firsts)
    assert_logs(objective.results([tf.constant(mean)]), wanted, firsts)


def test_evaluation_logs_what_compute_metrics_returns():
    model, plain = reporting(), reporting()
    measurement = keras_measurement(model, SPEC)
    each = [run(measurement, values_of(measurement), part) for part in PARTS]
    logs = measurement.results(tf.nest.map_structure(lambda *parts: tf.add_n(parts), *each))
    wanted = plain.evaluate(in_parts(), verbose=0, return_dict=True)
    assert_logs(logs, wanted, [plain(x)[0, 0] for x, _ in PARTS])


def test_what_compute_metrics_reads_from_a_metrics_variable_is_of_one_batch():
    class Counting(keras.Sequential):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__([keras.Input([4]), *plain()])
            self.batches = keras.metrics.Mean(name="batches")

        def compute_metrics(self, *args: Any, **kwargs: Any) -> Any:
            logs = super().compute_metrics(*args, **kwargs)
            self.batches.update_state(1.0)
            return {"each": logs["loss"] / self.batches.count}

    measurement = keras_measurement(reporting(Counting), SPEC)
    each = [run(measurement, values_of(measurement), part) for part in PARTS]
    logs = measurement.results(tf.nest.map_structure(lambda *parts: tf.add_n(parts), *each))
    losses = [reporting(Counting).compute_loss(y=y, y_pred=reporting()(x)) for x, y in PARTS]
    np.testing.assert_allclose(logs["each"], np.mean(losses), rtol=1e-5)


def test_compute_metrics_that_leaves_the_logs_as_they_are():
    class Same(keras.Sequential):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__([keras.Input([4]), *plain()])

        def compute_metrics(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_metrics(*args, **kwargs)

    measurement = keras_measurement(reporting(Same), SPEC)
    totals = run(measurement, values_of(measurement))
    assert totals.reports == []
    wanted = reporting(Same).test_on_batch(X, Y, return_dict=True)
    logs = measurement.results(totals)
    assert sorted(logs) == sorted(wanted)
    assert_close([logs[name] for name in wanted], list(wanted.values()))


def test_what_get_metrics_result_adds_is_logged_too():
    class Derived(keras.Sequential):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__([keras.Input([4]), *plain()])

        def get_metrics_result(self) -> Any:
            logs = super().get_metrics_result()
            return {**logs, "perplexity": keras.ops.exp(logs["loss"])}

    measurement = keras_measurement(reporting(Derived), SPEC)
    logs = measurement.results(run(measurement, values_of(measurement)))
    np.testing.assert_allclose(logs["perplexity"], np.exp(logs["loss"]), rtol=1e-5)


def test_a_compute_metrics_of_one_model_alone_is_its_own():
    model = build(plain())
    keras_logs = type(model).compute_metrics

    def compute_metrics(x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return {**keras_logs(model, x, y, y_pred, sample_weight), "largest": tf.reduce_max(y_pred)}

    model.compute_metrics = compute_metrics
    measurement = keras_measurement(model, SPEC)
    logs = measurement.results(run(measurement, values_of(measurement)))
    np.testing.assert_allclose(logs["largest"], np.max(model(X)), rtol=1e-5)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda y_pred: None, "Wrong.compute_metrics returned NoneType; it must return a dict"),
        (
            lambda y_pred: {"all": y_pred[0]},
            r"returned 'all' of shape \(3,\); what it",
        ),
    ],
    ids=["nothing", "vector"],
)
@pytest.mark.parametrize("make", [keras_objective, keras_measurement])
def test_what_compute_metrics_must_not_return(make: Any, returned: Any, message: str):
    class Wrong(keras.Sequential):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__([keras.Input([4]), *plain()])

        def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            super().compute_metrics(x, y, y_pred, sample_weight)
            return returned(y_pred)

    with pytest.raises(TypeError, match=message):
        make(reporting(Wrong), SPEC)


# ---- Tables -----------------------------------------------------------------------------------

WORDS = np.array([[1, 4, 4], [0, 2, 1]])
TEXTS = (WORDS, np.array([2, 1]))
TABLE = 0  # Index of the table among the trainable variables.


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat variables of this process as if they were on parameter servers."""
    monkeypatch.setattr(runtime, "is_on_ps", lambda device: True)
    monkeypatch.setattr(runtime, "ps_index", lambda device: 0)
    monkeypatch.setattr(graphs, "on_server", lambda ps, function, *args: function(*args))


def embedding(**options: Any) -> list[Any]:
    return [layers.Embedding(7, 5, **options), layers.Flatten(), layers.Dense(3)]


def texts(stack: Sequence[Any], optimizer: Any = None, **options: Any) -> Model:
    """Return a compiled text model."""
    model = keras.Sequential([keras.Input([3], dtype="int64"), *stack])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(1.0), loss, metrics=["accuracy"], **options)
    return start(model, TEXTS)


def dense_gradients(stack: Sequence[Any]) -> list[Any]:
    """Return the gradients that Keras computes."""
    model = texts(stack)
    before = snapshot(model.trainable_variables)
    model.train_on_batch(*TEXTS)  # With SGD of learning rate 1.
    return [old - new for old, new in zip(before, snapshot(model.trainable_variables), strict=True)]


@pytest.mark.usefixtures("servers")
def test_a_table_is_looked_up_and_not_read():
    objective = keras_objective(texts(embedding()), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    table = objective.trainable[TABLE]
    assert not any(v is table for v in objective.read)
    assert len(objective.read) == len(objective.trainable) - 1
    assert isinstance(objective.compute.structured_outputs.gradients[TABLE], tf.IndexedSlices)
    assert sorted(results.gradients[TABLE].indices.numpy()) == [0, 1, 2, 4]  # Once each.
    assert_close(map(tf.convert_to_tensor, results.gradients), dense_gradients(embedding()))


@pytest.mark.usefixtures("servers")
def test_rows_of_a_table_are_those_of_the_moment():
    objective = keras_objective(texts(embedding()), spec_of(TEXTS))
    before = run(objective, values_of(objective), TEXTS)
    objective.trainable[TABLE].assign_add(tf.ones([7, 5]))
    after = run(objective, values_of(objective), TEXTS)
    assert not np.allclose(before.gradients[1], after.gradients[1])


@pytest.mark.usefixtures("servers")
def test_a_table_that_a_regulariser_reads_whole_is_none():
    stack = [embedding(embeddings_regularizer=keras.regularizers.L2(0.3)) for _ in range(2)]
    objective = keras_objective(texts(stack[0]), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    assert len(objective.read) == len(objective.trainable)
    assert not isinstance(results.gradients[TABLE], tf.IndexedSlices)
    assert_close(results.gradients, dense_gradients(stack[1]))


@pytest.mark.usefixtures("servers")
def test_of_two_tables_one_read_whole_the_other_still_is_one():
    def two() -> list[Any]:
        regularised = layers.Embedding(4, 2, embeddings_regularizer="l2")
        inputs = keras.Input([3], dtype="int64")
        both = layers.Concatenate()([regularised(inputs % 4), layers.Embedding(7, 5)(inputs)])
        return [keras.Model(inputs, both), layers.Flatten(), layers.Dense(3)]

    objective = keras_objective(texts(two()), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in results.gradients]
    assert sparse == [False, True, False, False]
    assert_close(map(tf.convert_to_tensor, results.gradients), dense_gradients(two()))


class Sometimes(layers.Layer):
    """Looks words up in a branch, where there are no gradients for rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = layers.Embedding(7, 5)

    def build(self, shape: Any) -> None:
        self.embedding.build(shape)

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape, 5)

    def call(self, ids: Any) -> Any:
        zeros = tf.zeros([tf.shape(ids)[0], 3, 5])
        found = tf.cond(tf.reduce_any(ids > 0), lambda: self.embedding(ids), lambda: zeros)
        return tf.ensure_shape(found, [None, 3, 5])


@pytest.mark.usefixtures("servers")
def test_a_table_in_a_branch_is_read_whole():
    def branching() -> list[Any]:
        return [Sometimes(), layers.Flatten(), layers.Dense(3)]

    objective = keras_objective(texts(branching()), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    assert len(objective.read) == len(objective.trainable)
    assert_close(results.gradients, dense_gradients(branching()))


@pytest.mark.usefixtures("servers")
def test_a_frozen_table_is_looked_up_too():
    objective = keras_objective(texts(embedding(trainable=False)), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    assert len(objective.read) == 2  # Of the Dense layer.
    assert not any(change is not None for change in results.changes)
    assert_close(results.gradients, dense_gradients(embedding(trainable=False)))


@pytest.mark.usefixtures("servers")
def test_a_table_that_was_frozen_first_trains():
    def thawed() -> Model:
        model = texts(embedding(trainable=False))
        model.layers[0].trainable = True
        model.compile(keras.optimizers.SGD(1.0), model.loss)
        return start(model, TEXTS)

    objective = keras_objective(thawed(), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    assert_close(map(tf.convert_to_tensor, results.gradients), dense_gradients(embedding()))


@pytest.mark.usefixtures("servers")
def test_a_table_that_two_layers_share_adds_both_up():
    def twice() -> list[Any]:
        inputs, shared = keras.Input([3], dtype="int64"), layers.Embedding(7, 5)
        both = shared(inputs) * shared((inputs + 1) % 7)
        return [keras.Model(inputs, both), layers.Flatten(), layers.Dense(3)]

    objective = keras_objective(texts(twice()), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    assert isinstance(results.gradients[TABLE], tf.IndexedSlices)
    assert_close(map(tf.convert_to_tensor, results.gradients), dense_gradients(twice()))


@pytest.mark.usefixtures("servers")
def test_a_loss_scale_scales_a_tables_gradient():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=4.0)
    objective = keras_objective(texts(embedding(), optimizer), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    wanted = dense_gradients(embedding())
    assert_close([tf.convert_to_tensor(g) / 4.0 for g in results.gradients], wanted)


@pytest.mark.usefixtures("servers")
def test_xla_reads_tables_whole():
    objective = keras_objective(texts(embedding(), jit_compile=True), spec_of(TEXTS))
    results = run(objective, values_of(objective), TEXTS)
    assert len(objective.read) == len(objective.trainable)
    assert_close(results.gradients, dense_gradients(embedding()))


@pytest.mark.usefixtures("servers")
def test_evaluation_looks_tables_up():
    measurement = keras_measurement(texts(embedding()), spec_of(TEXTS))
    assert len(measurement.read) == 2
    other = texts(embedding())
    other.test_on_batch(*TEXTS)
    totals = run(measurement, values_of(measurement), TEXTS)
    assert_close(totals.sums, snapshot(other.metrics_variables))


@pytest.mark.usefixtures("servers")
def test_embedding_layers_are_keras_own_again():
    call = layers.Embedding.call
    keras_objective(texts(embedding()), spec_of(TEXTS))
    assert layers.Embedding.call is call


def test_an_embedding_that_is_on_no_server_is_no_table():
    assert KerasVariables(texts(embedding()), None).tables == []
