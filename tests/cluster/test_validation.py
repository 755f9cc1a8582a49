"""Evaluation on all workers: each sample once, results of one device, predictions in order."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.extra import extra, with_extra

pytestmark = pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)

SAMPLES = 23
RNG = np.random.default_rng(4)
X = RNG.normal(size=[SAMPLES, 3]).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
IDS = np.arange(SAMPLES)
WEIGHTS = RNG.uniform(size=[SAMPLES]).astype(np.float32)


class Seen(keras.metrics.Metric):  # type: ignore[misc]
    """Counts of how often each sample was seen; y is (label, id)."""

    def __init__(self) -> None:
        super().__init__(name="seen")
        self.counts = self.add_variable((SAMPLES,), "zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        ids = keras.ops.cast(y_true[:, 1], "int32")
        self.counts.assign_add(keras.ops.sum(keras.ops.one_hot(ids, SAMPLES), 0))

    def result(self) -> Any:
        return keras.ops.sum(self.counts)


def labels(y_true: Any) -> Any:
    return keras.ops.cast(y_true[:, 0], "int32")


def cross_entropy(y_true: Any, y_pred: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(labels(y_true), y_pred)


def right(y_true: Any, y_pred: Any) -> Any:
    return keras.metrics.sparse_categorical_accuracy(labels(y_true), y_pred)


def built() -> Any:
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def compiled(model: Any, optimizer: Any, **options: Any) -> Any:
    weighted = [cross_entropy]
    metrics = [right, Seen()]
    model.compile(optimizer, cross_entropy, metrics=metrics, weighted_metrics=weighted, **options)
    return model


def sgd(**options: Any) -> Any:
    return keras.optimizers.SGD(0.1, **options)


def on_strategy(strategy: Any, build: Callable[[], Any] = built, **options: Any) -> Any:
    with strategy.scope():
        return compiled(build(), tf_backup.wrap(sgd(**options), replicas=1))


def twin(model: Any) -> Any:
    """Return a model with the same weights on one device."""
    other = compiled(built(), sgd(), run_eagerly=True)  # Tracing would take longer.
    other.set_weights(model.get_weights())
    return other


@pytest.fixture(scope="module")
def model(cluster: tf_backup.LocalCluster) -> Any:
    """A model that is only evaluated."""
    return on_strategy(cluster.strategy())


def targets(ids: Any = IDS) -> Any:
    return np.stack([Y[ids], ids], axis=1)


def samples(*sizes: int) -> tf.data.Dataset:
    """Return a data set of batches of the given sizes."""
    assert sum(sizes) == SAMPLES
    parts: list[tf.data.Dataset] = []
    start = 0
    for size in sizes:
        ids = IDS[start : start + size]
        part = tf.data.Dataset.from_tensor_slices((X[ids], targets(ids)))
        parts.append(part.batch(size))
        start += size
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.concatenate(part)
    return whole


def weighted() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, targets(), WEIGHTS)).batch(4)


# Arguments of evaluate, made late: tensors must not be made before the cluster.
DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "arrays": lambda: {"x": X, "y": targets(), "batch_size": 5},
    "arrays with weights": lambda: {
        "x": X,
        "y": targets(),
        "sample_weight": WEIGHTS,
        "batch_size": 2,
    },
    "uneven batches": lambda: {"x": samples(1, 9, 2, 3, 8)},
    "weights": lambda: {"x": weighted()},
    "ragged last batch": lambda: {"x": samples(11, 11, 1)},
    "one batch": lambda: {"x": samples(23)},
    "fewer batches than workers": lambda: {"x": samples(10, 13)},
    "as many batches as workers": lambda: {"x": samples(10, 1, 1, 11)},
    "unknown length": lambda: {"x": samples(6, 6, 6, 5).filter(lambda x, y: True)},
    "an empty shard": lambda: {"x": samples(*[1] * SAMPLES).filter(lambda x, y: y[0, 1] % 4 != 1)},
    "fewer steps": lambda: {"x": samples(6, 6, 6, 5), "steps": 3},
    "steps of what repeats": lambda: {"x": samples(6, 6, 6, 5).repeat(), "steps": 7},
    "steps of arrays": lambda: {"x": X, "y": targets(), "batch_size": 5, "steps": 2},
}


SIMILAR = ("arrays with weights", "one batch", "as many batches as workers", "steps of arrays")


@pytest.mark.parametrize("name", with_extra(DATA, *SIMILAR))
def test_evaluate_gives_one_devices_results(model: Any, name: str) -> None:
    other = twin(model)
    ours = model.evaluate(**DATA[name](), verbose=0, return_dict=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")  # If the length is unknown.
        theirs = other.evaluate(**DATA[name](), verbose=0, return_dict=True)
    assert ours == pytest.approx(theirs, 1e-5)
    np.testing.assert_array_equal(counts(model), counts(other))
    if "steps" not in DATA[name]() and name != "an empty shard":
        np.testing.assert_array_equal(counts(model), 1)
    assert sum(counts(model)) == ours["seen"] > 0


def counts(model: Any) -> Any:
    (seen,) = (v for v in model.metrics_variables if v.path.endswith("counts"))
    return seen.numpy()


def test_a_functions_shards_are_all_of_the_data(model: Any) -> None:
    """Worker i has i + 1 batches, and worker 3 none."""
    starts = [0, 3, 9, SAMPLES, SAMPLES]

    def dataset_fn(context: tf.distribute.InputContext) -> tf.data.Dataset:
        i = context.input_pipeline_id
        ids = IDS[starts[i] : starts[i + 1]]
        return tf.data.Dataset.from_tensor_slices((X[ids], targets(ids))).batch(5)

    ours = model.evaluate(dataset_fn, verbose=0, return_dict=True)
    np.testing.assert_array_equal(counts(model), 1)
    theirs = twin(model).evaluate(X, targets(), verbose=0, return_dict=True)
    assert ours == pytest.approx(theirs, 1e-5)


def test_what_evaluate_returns(model: Any) -> None:
    values = model.evaluate(X, targets(), verbose=0)
    by_name = model.evaluate(X, targets(), verbose=0, return_dict=True)
    assert set(by_name) == {"loss", "right", "seen", "cross_entropy"}
    assert sorted(values) == pytest.approx(sorted(by_name.values()))
    assert values == pytest.approx(twin(model).evaluate(X, targets(), verbose=0), 1e-5)


def test_evaluate_twice_counts_once(model: Any) -> None:
    first = model.evaluate(X, targets(), batch_size=4, verbose=0, return_dict=True)
    again = model.evaluate(X, targets(), batch_size=4, verbose=0, return_dict=True)
    assert first == pytest.approx(again, 1e-6)
    np.testing.assert_array_equal(counts(model), 1)
    weights = [np.array(weight) for weight in model.get_weights()]
    model.evaluate(X, targets(), verbose=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_evaluate_before_between_and_after_fits(strategy: Any) -> None:
    """The model is not built at first; each evaluation uses the current weights."""

    def unbuilt() -> Any:
        return keras.Sequential(built().layers)

    model = on_strategy(strategy, unbuilt)
    found = []
    for _ in range(3):
        ours = model.evaluate(X, targets(), batch_size=4, verbose=0, return_dict=True)
        theirs = twin(model).evaluate(X, targets(), batch_size=7, verbose=0, return_dict=True)
        assert ours == pytest.approx(theirs, 1e-5)
        found.append(ours["loss"])
        model.fit(X, targets(), batch_size=8, epochs=2, verbose=0)
    assert len(set(found)) == 3
    assert int(model.optimizer.iterations) == 3 * 2 * 3


def test_evaluate_in_a_batch_hook_leaves_training_alone(strategy: Any) -> None:
    """It ends the current run; fit starts the next one at the same step."""
    model = on_strategy(strategy)
    losses = []

    def look(batch: int, logs: Any) -> None:
        losses.append(model.evaluate(X, targets(), verbose=0, return_dict=True)["loss"])

    hook = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(X, targets(), batch_size=8, epochs=1, verbose=0, callbacks=[hook])
    assert int(model.optimizer.iterations) == 3 == len(set(losses))
    assert losses[-1] == pytest.approx(
        twin(model).evaluate(X, targets(), verbose=0, return_dict=True)["loss"], 1e-5
    )


# ---- In fit -----------------------------------------------------------------------------------


def simple() -> Any:
    """Return a model without dropout, whose updates one device can repeat."""
    keras.utils.set_random_seed(8)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2, activation="softmax")]
    )


VALIDATION: dict[str, Callable[[], dict[str, Any]]] = {
    "validation_split": lambda: {"validation_split": 0.3},
    "validation_data": lambda: {"validation_data": (X, targets(), WEIGHTS)},
    "validation_freq": lambda: {"validation_data": (X, targets()), "validation_freq": 2},
    "validation_freq list": lambda: {
        "validation_data": samples(20, 3),
        "validation_freq": [1, 3],
    },
    "validation_batch_size": lambda: {
        "validation_data": (X, targets()),
        "validation_batch_size": 3,
    },
    "validation_steps": lambda: {"validation_data": samples(6, 6, 6, 5), "validation_steps": 2},
}


@pytest.fixture(scope="module")
def pair(cluster: tf_backup.LocalCluster) -> tuple[Any, Any]:
    return on_strategy(cluster.strategy(), simple), compiled(simple(), sgd())


@pytest.mark.parametrize("name", with_extra(VALIDATION, "validation_batch_size", "validation_data"))
def test_validation_in_fit_is_one_devices(pair: tuple[Any, Any], name: str) -> None:
    """With N = 1, both make the same updates; they go on from test to test."""
    histories = [
        model.fit(
            X,
            targets(),
            batch_size=8,
            epochs=3,
            shuffle=False,
            verbose=0,
            **VALIDATION[name](),
        ).history
        for model in pair
    ]
    assert set(histories[0]) == set(histories[1])
    assert any(key.startswith("val_") for key in histories[0])
    for key, values in histories[1].items():
        assert histories[0][key] == pytest.approx(values, 1e-4), key
    np.testing.assert_array_equal(counts(pair[0]), counts(pair[1]))


# ---- Averages ---------------------------------------------------------------------------------


@extra
def test_the_averages_can_be_evaluated(strategy: Any) -> None:
    """During training with `SwapEMAWeights`; after fit, they are the weights."""
    model = on_strategy(strategy, use_ema=True, ema_momentum=0.9)
    seen = []

    def look(epoch: int, logs: Any) -> None:
        other = twin(model)
        plain = other.evaluate(X, targets(), verbose=0, return_dict=True)["loss"]
        averages = [v.numpy() for v in model.optimizer._model_variables_moving_average]
        for variable, value in zip(other.trainable_variables, averages, strict=True):
            variable.assign(value)
        average = other.evaluate(X, targets(), verbose=0, return_dict=True)["loss"]
        seen.append((logs["val_loss"], average, plain))

    callbacks = [
        keras.callbacks.SwapEMAWeights(),
        keras.callbacks.LambdaCallback(on_epoch_end=look),
    ]
    data = (X, targets())
    model.fit(*data, batch_size=8, epochs=3, verbose=0, validation_data=data, callbacks=callbacks)
    for ours, average, plain in seen:
        assert ours == pytest.approx(average, 1e-5)
        assert ours != pytest.approx(plain, 1e-4)
    after = model.evaluate(*data, verbose=0, return_dict=True)["loss"]
    assert after == pytest.approx(seen[-1][1], 1e-5)


# ---- Predict ----------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Data in this process, where predict runs."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return (X[4 * index : 4 * index + 4],)


def test_predict_keeps_the_order(model: Any) -> None:
    expected = twin(model).predict(X, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices(X)
    for arguments in (
        {"x": X, "batch_size": 5},
        {"x": dataset.batch(3)},
        {"x": dataset.batch(4).filter(lambda x: True)},
        {"x": dataset.batch(4).repeat(), "steps": 6},
        {"x": ((X[i : i + 4],) for i in range(0, SAMPLES, 4)), "steps": 6},
        {"x": Batches()},
    ):
        with warnings.catch_warnings():  # Keras warns at the end of data of unknown length.
            warnings.filterwarnings("ignore", "Your input ran out of data")
            found = model.predict(**arguments, verbose=0)
        np.testing.assert_allclose(found[:SAMPLES], expected, rtol=1e-5)
        assert len(found) == SAMPLES
    np.testing.assert_allclose(
        model.predict(X, batch_size=5, steps=2, verbose=0), expected[:10], rtol=1e-5
    )


def test_predict_says_nothing(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow warns about work on the coordinator; predict runs there on purpose."""
    tensorflow = logging.getLogger("tensorflow")
    tensorflow.addHandler(caplog.handler)
    try:
        model.predict(X, verbose=0)
        assert not caplog.messages
        model.distribute_strategy.run(lambda: None)  # All others still get the warning.
        assert "without using `ClusterCoordinator.schedule`" in caplog.text
    finally:
        tensorflow.removeHandler(caplog.handler)


def test_predict_with_several_outputs(strategy: Any) -> None:
    """The model was never compiled."""
    with strategy.scope():
        inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((1,), name="b")}
        added = keras.layers.Add()([inputs["a"], inputs["b"]])
        model = keras.Model(inputs, {"sum": added, "a": keras.layers.Identity()(inputs["a"])})
    numbers = np.arange(17, dtype=np.float32)[:, None]
    found = model.predict({"a": numbers, "b": 100.0 * numbers}, batch_size=4, verbose=0)
    np.testing.assert_array_equal(found["a"], numbers)
    np.testing.assert_array_equal(found["sum"], 101.0 * numbers)
