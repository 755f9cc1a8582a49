"""Every kind of Keras model trains as on one device; see `kinds`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_backup
from tests.cluster.kinds import (
    BATCH,
    LENGTH,
    REPLICAS,
    UPDATES,
    WORDS,
    Batch,
    Kind,
    Rng,
    assert_same,
    batches,
    check,
    circumstances,
    classification,
    data_of,
    normal,
    on_strategy,
    one_device,
    regression,
    sequential,
    sgd,
    update_with,
    weighted,
    words,
)
from tests.extra import with_extra
from tf_backup.servers import packing

pytestmark = pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send parameters and gradients in several parts, as for models of some MiB."""
    monkeypatch.setattr(packing, "_SMALL", 1)
    monkeypatch.setattr(packing, "_LARGE", 128)


KINDS: dict[str, Kind] = {}


# ---- Inputs, outputs, losses ------------------------------------------------------------------


def several_inputs_and_outputs(optimizer: Any) -> Any:
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    both = layers.Concatenate()([inputs["a"], inputs["b"]])
    hidden = layers.Dense(4, activation="tanh")(both)
    outputs = {
        "value": layers.Dense(1, name="value")(hidden),
        "label": layers.Dense(3, name="label", activation="softmax")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer,
        loss={"value": "mse", "label": "sparse_categorical_crossentropy"},
        loss_weights={"value": 0.3, "label": 2.0},
        metrics={"value": ["mae"]},
        weighted_metrics={"value": ["mse"], "label": ["accuracy"]},
    )
    return model


def several(rng: Rng) -> Batch:
    weights = {name: rng.uniform(size=[BATCH]).astype(np.float32) for name in ("value", "label")}
    x = {"a": normal(rng, 3), "b": normal(rng, 2)}
    return x, {"value": normal(rng, 1), "label": rng.integers(3, size=[BATCH])}, weights


def classifier(optimizer: Any, **options: Any) -> Any:
    model = sequential(layers.Dense(4, activation="tanh"), layers.Dense(3, activation="softmax"))
    options.setdefault("weighted_metrics", ["accuracy"])
    model.compile(optimizer, "sparse_categorical_crossentropy", **options)
    return model


class OwnLoss(keras.Model):  # type: ignore[misc]
    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return 2.0 * loss + keras.ops.mean(keras.ops.abs(y_pred)) * keras.ops.mean(x**2)


def own_loss(optimizer: Any) -> Any:
    inputs = keras.Input((6,))
    model = OwnLoss(inputs, layers.Dense(2)(inputs))
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


class Sparsity(layers.Layer):  # type: ignore[misc]
    """Adds losses of its inputs and of its own weight."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x: Any) -> Any:
        scaled = x * self.scale
        self.add_loss(0.1 * keras.ops.mean(keras.ops.abs(scaled)))
        return scaled


def added_loss(optimizer: Any) -> Any:
    model = sequential(layers.Dense(4, activation="tanh"), Sparsity(), layers.Dense(2))
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def added_loss_alone(optimizer: Any) -> Any:
    model = sequential(layers.Dense(4, kernel_regularizer="l2"), Sparsity())
    model.compile(optimizer)
    return model


KINDS["several inputs and outputs"] = Kind(several_inputs_and_outputs, several)
KINDS["sample_weight"] = Kind(classifier, weighted)
KINDS["compute_loss"] = Kind(own_loss, regression)
KINDS["add_loss"] = Kind(added_loss, regression)
KINDS["add_loss alone"] = Kind(added_loss_alone, lambda rng: (normal(rng, 6),))


# ---- Layers -----------------------------------------------------------------------------------


def tagger(optimizer: Any) -> Any:
    """Return a model that labels words; a mask keeps the padding out of loss and metrics."""
    inputs = keras.Input((LENGTH,), dtype="int64")
    embedded = layers.Embedding(WORDS, 3, mask_zero=True)(inputs)
    states = layers.LSTM(3, return_sequences=True)(embedded)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(states))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def tagged(rng: Rng) -> Batch:
    return words(rng), rng.integers(3, size=[BATCH, LENGTH])


def recurrent(optimizer: Any) -> Any:
    inputs = keras.Input((LENGTH, 2))
    states = layers.Bidirectional(layers.GRU(2))(inputs)
    model = keras.Model(inputs, layers.Dense(2)(states))
    model.compile(optimizer, "mse")
    return model


def transformer(optimizer: Any) -> Any:
    inputs = keras.Input((LENGTH, 4))
    attended = layers.MultiHeadAttention(2, 2)(inputs, inputs, use_causal_mask=True)
    first = layers.LayerNormalization()(layers.Add()([inputs, attended]))
    inside = layers.Dense(4)(layers.Dense(8, activation="gelu")(first))
    second = layers.LayerNormalization()(layers.Add()([first, inside]))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(second)))
    model.compile(optimizer, "mse")
    return model


def batch_norm(optimizer: Any) -> Any:
    model = sequential(layers.Dense(4), layers.BatchNormalization(momentum=0.8), layers.Dense(2))
    model.compile(optimizer, "mse")
    return model


def dropout(optimizer: Any) -> Any:
    model = sequential(layers.Dense(8), layers.Dropout(0.5, seed=3), layers.Dense(2))
    model.compile(optimizer, "mse")
    return model


def with_lambda(optimizer: Any) -> Any:
    inputs = keras.Input((6,))
    squared = layers.Lambda(lambda x: keras.ops.square(x) - 1.0)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([inputs, squared])))
    model.compile(optimizer, "mse")
    return model


class Block(layers.Layer):  # type: ignore[misc]
    def __init__(self, units: int) -> None:
        super().__init__()
        self.stack = [layers.Dense(units, activation="tanh"), layers.BatchNormalization()]

    def call(self, x: Any, training: bool = False) -> Any:
        return self.stack[1](self.stack[0](x), training=training)


class Nested(keras.Model):  # type: ignore[misc]
    """Model that is not built yet when it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Block(4), Block(3)]
        self.head = keras.Sequential([layers.Dense(3), layers.Dense(2)])

    def call(self, x: Any, training: bool = False) -> Any:
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(x)


def nested(optimizer: Any) -> Any:
    model = Nested()
    model.compile(optimizer, "mse")
    return model


def tables(optimizer: Any, **options: Any) -> Any:
    """Return a model with two embeddings, one used twice and one frozen; rows are repeated."""
    sides = [keras.Input((LENGTH,), dtype="int32"), keras.Input((), dtype="int64")]
    shared = layers.Embedding(WORDS, 3, embeddings_constraint="non_neg", **options)
    fixed = layers.Embedding(WORDS, 2, trainable=False)
    parts = [shared(sides[0]), keras.ops.expand_dims(shared(sides[1]), 1)]
    both = layers.GlobalAveragePooling1D()(layers.Concatenate(axis=1)(parts))
    model = keras.Model(sides, layers.Dense(2)(layers.Concatenate()([both, fixed(sides[1])])))
    model.compile(optimizer, "mse")
    return model


def ids(rng: Rng) -> Batch:
    one = words(rng).astype(np.int32)
    return (one, rng.integers(-2, WORDS, size=[BATCH])), normal(rng, 2)


def table_and_tied_output(optimizer: Any) -> Any:
    """Return a model whose table is also read as a whole: by a regularizer, and for the output."""
    inputs = keras.Input((LENGTH,), dtype="int64")
    embedding = layers.Embedding(WORDS, 3, embeddings_regularizer="l2")
    tied = layers.ReversibleEmbedding(WORDS, 3)
    states = layers.GRU(3, return_sequences=True)(embedding(inputs) + tied(inputs))
    model = keras.Model(inputs, tied(states, reverse=True))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


KINDS["tables"] = Kind(tables, ids)
KINDS["tables read whole"] = Kind(
    table_and_tied_output, lambda rng: (words(rng), words(rng)), atol=5e-6
)
KINDS["mask"] = Kind(tagger, tagged)
KINDS["recurrent"] = Kind(recurrent, lambda rng: (normal(rng, LENGTH, 2), normal(rng, 2)))
KINDS["attention"] = Kind(transformer, lambda rng: (normal(rng, LENGTH, 4), normal(rng, 2)))
KINDS["batch norm"] = Kind(batch_norm, regression)
# Each worker and step draws from its own stream, which one device does not know.
KINDS["dropout"] = Kind(dropout, regression, equality=False)
KINDS["Lambda"] = Kind(with_lambda, regression)
KINDS["subclassed"] = Kind(nested, regression)


# ---- Steps of their own -----------------------------------------------------------------------


class OwnStep(keras.Model):  # type: ignore[misc]
    """Has its own train_step and test_step, with a metric, a scalar, and state that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = keras.Sequential(
            [keras.Input((6,)), layers.Dense(4, activation="tanh"), layers.BatchNormalization()]
        )
        self.head = layers.Dense(2, kernel_regularizer="l2")
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.body(x, training=training))

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = tf.reduce_mean((y - y_pred) ** 2) + sum(self.losses)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.error.update_state(y, y_pred)
        return {"my_loss": loss, "mae": self.error.result()}

    def test_step(self, data: Any) -> dict[str, Any]:
        self.error.update_state(data[1], self(data[0], training=False))
        return {"mae": self.error.result()}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss, for the reference on one device."""
        self.error.update_state(y, y_pred)
        return tf.reduce_mean((y - y_pred) ** 2) + sum(self.losses)


def own_step(optimizer: Any) -> Any:
    model = OwnStep()
    model.compile(optimizer)
    return model


class AssigningStep(OwnStep):
    """Normalises a weight before it uses it."""

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.body.layers[0].kernel.assign(0.9 * self.body.layers[0].kernel)
        return super().call(x, training)


def assigning_step(optimizer: Any) -> Any:
    model = AssigningStep()
    model.compile(optimizer)
    return model


class Wrapped(keras.Model):  # type: ignore[misc]
    """Keras' own step, which also reports the learning rate."""

    def train_step(self, data: Any) -> dict[str, Any]:
        logs = super().train_step(data)
        return {**logs, "rate": self.optimizer.learning_rate + 0.0}


def around_keras_step(optimizer: Any) -> Any:
    inputs = keras.Input((LENGTH,), dtype="int64")
    embedded = layers.Flatten()(layers.Embedding(WORDS, 3)(inputs))
    model = Wrapped(inputs, layers.Dense(2)(layers.Dropout(0.0)(embedded)))
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def of_own_step(logs: dict[str, Any], losses: list[float]) -> dict[str, Any]:
    """Return the logs of such a step, with the mean loss of the last update's batches."""
    return {"mae": logs["error"], "my_loss": np.mean(losses[-REPLICAS:])}


KINDS["own step"] = Kind(own_step, regression, told=of_own_step)
KINDS["own step that assigns"] = Kind(assigning_step, regression, told=of_own_step)
KINDS["own step around Keras'"] = Kind(
    around_keras_step,
    lambda rng: (words(rng), normal(rng, 2)),
    told=lambda logs, losses: {**logs, "rate": 0.1},
)


# ---- Weights ----------------------------------------------------------------------------------


def frozen(optimizer: Any) -> Any:
    norm = layers.BatchNormalization(trainable=False)  # Computes as in evaluation.
    model = sequential(layers.Dense(4, trainable=False), norm, layers.Dense(2))
    model.compile(optimizer, "mse")
    return model


def siamese(optimizer: Any) -> Any:
    sides = [keras.Input((3,)), keras.Input((3,))]
    shared = layers.Dense(2, activation="tanh")
    one, other = map(shared, sides)
    model = keras.Model(sides, layers.Dense(1)(layers.Subtract()([one, other])))
    model.compile(optimizer, "mse")
    return model


class Unused(keras.Model):  # type: ignore[misc]
    """Has a layer that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used = layers.Dense(2)
        self.unused = layers.Dense(2)

    def call(self, x: Any) -> Any:
        self.unused(x)
        return self.used(x)


def without_gradient(optimizer: Any) -> Any:
    model = Unused()
    model.compile(optimizer, "mse")
    return model


class Assigning(layers.Layer):  # type: ignore[misc]
    """Reads a weight before and after assigning to it, and assigns to another layer's weight.

    The assigned values depend on the batch, and so differ between workers.
    """

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.other = other

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 2))
        self.calls = self.add_weight(shape=(), dtype="int64", trainable=False, initializer="zeros")

    def call(self, x: Any, training: bool = False) -> Any:
        before = keras.ops.matmul(x, self.kernel)
        if training:
            self.kernel.assign(0.5 * self.kernel + 0.1 * keras.ops.mean(x))
            self.other.kernel.assign(0.9 * self.other.kernel)
            self.other.bias.assign_add(keras.ops.mean(x, axis=0)[:4])
            self.calls.assign_add(2)
        return before * keras.ops.matmul(x, self.kernel)


def assigning(optimizer: Any) -> Any:
    inputs = keras.Input((6,))
    frozen, free = layers.Dense(4, trainable=False), layers.Dense(4)
    hidden = layers.Concatenate()([inputs, frozen(inputs), free(inputs)])
    outputs = layers.Add()([Assigning(frozen)(hidden), Assigning(free)(hidden)])
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, "mse")
    return model


def spectral(optimizer: Any) -> Any:
    model = sequential(layers.SpectralNormalization(layers.Dense(4)), layers.Dense(2))
    model.compile(optimizer, "mse")
    return model


class Centred(layers.Embedding):  # type: ignore[misc]
    """Table that is changed as a whole in every step."""

    def call(self, x: Any) -> Any:
        table = self._embeddings
        table.assign(table - keras.ops.mean(table, axis=0, keepdims=True))
        return super().call(x)


def assigned_table(optimizer: Any) -> Any:
    inputs = keras.Input((LENGTH,), dtype="int64")
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(Centred(WORDS, 3)(inputs))))
    model.compile(optimizer, "mse")
    return model


KINDS["assigns"] = Kind(assigning, regression)
KINDS["assigns to a table"] = Kind(assigned_table, lambda rng: (words(rng), normal(rng, 2)))
KINDS["spectral normalization"] = Kind(spectral, regression)
KINDS["frozen"] = Kind(frozen, regression)
KINDS["shared"] = Kind(siamese, lambda rng: ((normal(rng, 3), normal(rng, 3)), normal(rng, 1)))
KINDS["no gradient"] = Kind(without_gradient, regression, warns="Gradients do not exist for var")


# ---- Precision and compilers ------------------------------------------------------------------


def plain(optimizer: Any, **options: Any) -> Any:
    model = sequential(layers.Dense(4, activation="tanh"), layers.Dense(2, dtype="float32"))
    model.compile(optimizer, "mse", **options)
    return model


def overflowing(rng: Rng) -> Batch:
    """Return a batch whose scaled gradients are too large for float16 at first."""
    return 10.0 * normal(rng, 6), 10.0 * normal(rng, 2)


KINDS["mixed_float16"] = Kind(plain, overflowing, "mixed_float16", rtol=2e-3, atol=2e-3)
KINDS["mixed_bfloat16"] = Kind(plain, regression, "mixed_bfloat16", rtol=2e-2, atol=2e-3)
KINDS["jit_compile"] = Kind(lambda optimizer: plain(optimizer, jit_compile=True), regression)


# ---- Metrics ----------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class LargestClass(keras.metrics.Metric):  # type: ignore[misc]
    """Fraction of samples whose most probable class is the last; counts in integers."""

    def __init__(self, name: str = "largest_class", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.hits = self.add_variable((), "zeros", dtype="int64", name="hits")
        self.seen = self.add_variable((), "zeros", name="seen")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        hits = keras.ops.equal(keras.ops.argmax(y_pred, -1), y_pred.shape[-1] - 1)
        self.hits.assign_add(keras.ops.sum(keras.ops.cast(hits, "int64")))
        self.seen.assign_add(keras.ops.sum(keras.ops.ones_like(y_pred[:, 0])))

    def result(self) -> Any:
        return keras.ops.cast(self.hits, "float32") / self.seen


def measured(optimizer: Any) -> Any:
    model = sequential(layers.Dense(3, activation="softmax"))
    metrics = [
        keras.metrics.CategoricalAccuracy(name="accuracy"),
        keras.metrics.AUC(num_thresholds=20, name="auc"),
        keras.metrics.Precision(class_id=1, name="precision"),
        keras.metrics.OneHotMeanIoU(num_classes=3, name="mean_iou"),
        keras.metrics.F1Score(average="macro", name="f1"),
        keras.metrics.R2Score(name="r2"),
        keras.metrics.TopKCategoricalAccuracy(k=2, name="top_k"),
        LargestClass(),
    ]
    model.compile(optimizer, "categorical_crossentropy", metrics=metrics)
    return model


KINDS["metrics"] = Kind(
    measured, lambda rng: (normal(rng, 6), np.eye(3, dtype=np.float32)[rng.integers(3, size=BATCH)])
)


# ---- What must come out -----------------------------------------------------------------------


# Much of these is also in other kinds.
SIMILAR = (
    "subclassed",
    "dropout",
    "metrics",
    "add_loss alone",
    "recurrent",
    "Lambda",
    "own step that assigns",
    "own step around Keras'",
    "spectral normalization",
    "shared",
    "no gradient",
    "mixed_bfloat16",
    "tables read whole",
    "assigns to a table",
    "compute_loss",
    "mask",
    "sample_weight",
    "attention",
    "frozen",
    "batch norm",
    "add_loss",
)


@pytest.mark.parametrize("name", with_extra(KINDS, *SIMILAR))
def test_trains_as_on_one_device(strategy: Any, name: str, tmp_path: Path) -> None:
    check(strategy, KINDS[name], tmp_path)


def test_loss_scaling_skips_what_overflows(strategy: Any) -> None:
    """The kind above overflows at first, or its test would prove little."""
    kind = KINDS["mixed_float16"]
    with circumstances(kind):
        model = on_strategy(strategy, kind)
        model.fit(data_of(kind), steps_per_epoch=UPDATES, verbose=0)
    skipped = round(math.log2(2.0**15 / float(model.optimizer.dynamic_scale)))
    assert 0 < skipped < UPDATES
    assert int(model.optimizer.inner_optimizer.iterations) == UPDATES - skipped


def test_class_weight(strategy: Any) -> None:
    """It is not possible with a dataset function; worker i reads every N-th batch of a data set."""
    weights = {0: 0.5, 1: 2.0, 2: 0.0}
    kind = Kind(classifier, classification)
    by_worker = [batches(kind, i) for i in range(REPLICAS)]
    in_order = [batch for each in zip(*by_worker, strict=True) for batch in each]
    stacked = [np.stack(parts) for parts in zip(*in_order, strict=True)]
    with circumstances(kind):
        model = on_strategy(strategy, kind)
        dataset = tf.data.Dataset.from_tensor_slices(tuple(stacked))
        history = model.fit(dataset, class_weight=weights, verbose=0).history
    with circumstances(kind):
        weighted_batches = [
            [(x, y, np.array([weights[label] for label in y], np.float32)) for x, y in mine]
            for mine in by_worker
        ]
        plain, logs = one_device(kind, weighted_batches)
    assert_same(kind, model, {key: values[-1] for key, values in history.items()}, plain, logs)


def test_trainable_changed_between_two_fits(strategy: Any) -> None:
    kind = Kind(plain, regression)
    by_worker = [batches(kind, i) for i in range(REPLICAS)]
    with circumstances(kind):
        model = on_strategy(strategy, kind)
        model.fit(data_of(kind), steps_per_epoch=UPDATES, verbose=0)
        frozen, free = (layer.kernel.numpy() for layer in model.layers)
        with strategy.scope():
            model.layers[0].trainable = False
            model.compile(tf_backup.wrap(sgd(), REPLICAS), "mse")
        history = model.fit(data_of(kind), steps_per_epoch=UPDATES, verbose=0).history
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), frozen)
    assert (model.layers[1].kernel.numpy() != free).any()
    with circumstances(kind):
        other, _ = one_device(kind, by_worker)
        other.layers[0].trainable = False
        other.compile(sgd(), "mse")
        other.optimizer.build(other.trainable_variables)
        losses = [
            loss for each in zip(*by_worker, strict=True) for loss in update_with(other, each)
        ]
    logs = {"loss": history["loss"][-1]}
    assert_same(kind, model, logs, other, {"loss": np.mean(losses)})
