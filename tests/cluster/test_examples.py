"""Models in the shapes of Keras' public examples train as on one device; see `kinds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tests.cluster.kinds import (
    BATCH,
    LENGTH,
    REPLICAS,
    WORDS,
    Batch,
    Kind,
    Rng,
    check,
    normal,
    sequential,
    words,
)
from tests.extra import with_extra

pytestmark = [pytest.mark.long, pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)]

KINDS: dict[str, Kind] = {}


class Tracked(keras.Model):  # type: ignore[misc]
    """Has a train_step of the usual form, with its own `loss_of` and a loss tracker."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> list[Any]:
        return [self.tracker]

    def loss_of(self, data: Any) -> Any:
        raise NotImplementedError

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = self.loss_of(data)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}

    def compute_loss(self, x: Any = None, y: Any = None, *others: Any, **named: Any) -> Any:
        """Return the loss, for the reference on one device."""
        return self.loss_of(x if y is None else (x, y))


# ---- Pairs and triplets -----------------------------------------------------------------------


class Triplet(Tracked):
    """Takes three images, but `call` takes only one, so Keras cannot build the model."""

    def __init__(self) -> None:
        super().__init__()
        self.body = sequential(layers.Dense(4, activation="tanh"), layers.Dense(3))

    def call(self, x: Any) -> Any:
        if isinstance(x, (tuple, list)):
            raise ValueError("One image, please.")
        return self.body(x)

    def loss_of(self, data: Any) -> Any:
        (anchor, positive, negative), *_ = data if len(data) == 1 else (data,)
        anchor, positive, negative = (self(part) for part in (anchor, positive, negative))
        near = ops.sum((anchor - positive) ** 2, -1)
        return ops.mean(ops.maximum(near - ops.sum((anchor - negative) ** 2, -1) + 0.5, 0.0))


def triplet(optimizer: Any) -> Any:
    model = Triplet()
    model.compile(optimizer)
    return model


def contrastive_loss(y: Any, features: Any) -> Any:
    """Return the supervised contrastive loss, which draws samples of a class together."""
    features = features / ops.norm(features, axis=1, keepdims=True)
    similar = ops.matmul(features, ops.transpose(features)) / 0.5
    same = ops.cast(ops.equal(ops.reshape(y, (-1, 1)), ops.reshape(y, (1, -1))), "float32")
    same = same / ops.sum(same, axis=1, keepdims=True)
    return ops.sum(same * (ops.logsumexp(similar, axis=1, keepdims=True) - similar), axis=1)


def contrastive(optimizer: Any) -> Any:
    model = sequential(layers.Dense(6, activation="tanh"), layers.Dense(3))
    model.compile(optimizer, contrastive_loss)
    return model


# ---- Language ---------------------------------------------------------------------------------


class MaskedLanguageModel(keras.Model):  # type: ignore[misc]
    """Predicts masked words, which the sample weights mark."""

    def train_step(self, data: Any) -> dict[str, Any]:
        hidden, targets, weights = data
        with tf.GradientTape() as tape:
            y_pred = self(hidden, training=True)
            loss = self.compute_loss(hidden, targets, y_pred, weights)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"masked_loss": loss}


def masked_language_model(optimizer: Any) -> Any:
    inputs = keras.Input((LENGTH,), dtype="int64")
    states = layers.Embedding(WORDS, 4)(inputs)
    states = layers.LayerNormalization()(states + layers.MultiHeadAttention(1, 4)(states, states))
    model = MaskedLanguageModel(inputs, layers.Dense(WORDS, activation="softmax")(states))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy())
    return model


def hidden_words(rng: Rng) -> Batch:
    targets = words(rng)
    hidden = rng.uniform(size=targets.shape) < 0.4
    return np.where(hidden, WORDS - 1, targets), targets, hidden.astype(np.float32)


class Positions(layers.Layer):  # type: ignore[misc]
    """Embeddings of words and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = layers.Embedding(WORDS, 4), layers.Embedding(LENGTH, 4)

    def call(self, x: Any) -> Any:
        return self.words(x) + self.places(ops.arange(ops.shape(x)[-1]))


def mini_gpt(optimizer: Any) -> Any:
    """Return a model with two outputs, of which only the first has a loss."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    states = Positions()(inputs)
    attended = layers.MultiHeadAttention(2, 2)(states, states, use_causal_mask=True)
    states = layers.LayerNormalization(epsilon=1e-6)(states + attended)
    model = keras.Model(inputs, [layers.Dense(WORDS)(states), states])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=[loss, None])
    return model


# ---- Images -----------------------------------------------------------------------------------


class Distiller(keras.Model):  # type: ignore[misc]
    """A student that learns from the labels and from a frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = sequential(layers.Dense(8, activation="tanh"), layers.Dense(3))
        self.teacher.trainable = False
        self.student = sequential(layers.Dense(3))

    def call(self, x: Any) -> Any:
        return self.student(x)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *others: Any, **named: Any) -> Any:
        taught = ops.softmax(self.teacher(x, training=False) / 2.0)
        soft = keras.losses.kl_divergence(taught, ops.softmax(y_pred / 2.0))
        return 0.3 * super().compute_loss(x, y, y_pred, *others, **named) + 0.7 * ops.mean(soft)


def distiller(optimizer: Any) -> Any:
    model = Distiller()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


class Autoencoder(Tracked):
    """Variational autoencoder, which draws its code at random."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = layers.Dense(4), layers.Dense(6)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x: Any) -> Any:
        mean, log_variance = ops.split(self.encoder(x), 2, axis=-1)
        self.add_loss(ops.mean(mean**2 + ops.exp(log_variance) - log_variance))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        return self.decoder(mean + ops.exp(0.5 * log_variance) * noise)

    def loss_of(self, data: Any) -> Any:
        return ops.mean((self(data[0]) - data[0]) ** 2) + sum(self.losses)


def autoencoder(optimizer: Any) -> Any:
    model = Autoencoder()
    model.compile(optimizer)
    return model


class Quantizer(layers.Layer):  # type: ignore[misc]
    """Takes the nearest code, with a straight-through gradient."""

    def build(self, shape: Any) -> None:
        self.codes = self.add_weight(shape=(shape[-1], 5), initializer="random_uniform")

    def call(self, x: Any) -> Any:
        far = ops.sum(x**2, 1, keepdims=True) + ops.sum(self.codes**2, 0)
        nearest = ops.argmin(far - 2 * ops.matmul(x, self.codes), axis=1)
        code = ops.matmul(ops.one_hot(nearest, 5), ops.transpose(self.codes))
        self.add_loss(0.25 * ops.mean((ops.stop_gradient(code) - x) ** 2))
        self.add_loss(ops.mean((code - ops.stop_gradient(x)) ** 2))
        return x + ops.stop_gradient(code - x)


def quantized(optimizer: Any) -> Any:
    model = sequential(layers.Dense(3), Quantizer(), layers.Dense(6))
    model.compile(optimizer, "mse")
    return model


def mixup(optimizer: Any) -> Any:
    """Return a classifier for labels that are mixtures of two classes."""
    inputs = keras.Input((6, 6, 1))
    features = layers.Conv2D(2, 3, activation="relu")(inputs)
    features = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(features))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(features))
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    return model


def mixed(rng: Rng) -> Batch:
    share = rng.beta(0.2, 0.2, size=[BATCH, 1]).astype(np.float32)
    images = [normal(rng, 6, 6, 1) for _ in range(2)]
    labels = [np.eye(3, dtype=np.float32)[rng.integers(3, size=BATCH)] for _ in range(2)]
    weight = share[:, :, None, None]
    x = images[0] * weight + images[1] * (1 - weight)
    return x, labels[0] * share + labels[1] * (1 - share)


# ---- Structured data --------------------------------------------------------------------------


class GraphAttention(layers.Layer):  # type: ignore[misc]
    """Attends over the edges of a graph, with sums over the edges of each node."""

    def build(self, shapes: Any) -> None:
        self.kernel = self.add_weight(shape=(shapes[0][-1], 3))
        self.attention = self.add_weight(shape=(6, 1))

    def call(self, inputs: Any) -> Any:
        states, edges = inputs
        states = ops.matmul(states, self.kernel)
        ends = ops.reshape(ops.take(states, edges, axis=0), (-1, 6))
        score = ops.exp(ops.clip(ops.leaky_relu(ops.matmul(ends, self.attention)), -2, 2))
        total = ops.segment_sum(score, edges[:, 0], BATCH)
        share = score / (ops.take(total, edges[:, 0], axis=0) + 1e-7)
        return ops.segment_sum(share * ops.take(states, edges[:, 1], axis=0), edges[:, 0], BATCH)


def graph_attention(optimizer: Any) -> Any:
    states, edges = keras.Input((4,)), keras.Input((2,), dtype="int32")
    model = keras.Model([states, edges], layers.Dense(2)(GraphAttention()([states, edges])))
    model.compile(optimizer, "mse")
    return model


def graph(rng: Rng) -> Batch:
    edges = np.stack([np.arange(BATCH), rng.permutation(BATCH)], 1).astype(np.int32)
    return (normal(rng, 4), edges), normal(rng, 2)


def wide_and_deep(optimizer: Any) -> Any:
    numbers, label = keras.Input((4,), name="numbers"), keras.Input((1,), dtype="int64", name="id")
    wide = layers.CategoryEncoding(WORDS, output_mode="one_hot")(label)
    deep = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(WORDS, 2)(label))])
    deep = layers.BatchNormalization()(layers.Dense(4, activation="relu")(deep))
    both = layers.Concatenate()([layers.BatchNormalization()(wide), deep])
    model = keras.Model({"numbers": numbers, "id": label}, layers.Dense(1)(both))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
    return model


def rows(rng: Rng) -> Batch:
    x = {"numbers": normal(rng, 4), "id": rng.integers(WORDS, size=[BATCH, 1])}
    return x, rng.integers(2, size=[BATCH, 1]).astype(np.float32)


def time_series(optimizer: Any) -> Any:
    inputs = keras.Input((LENGTH, 3))
    near = layers.Conv1D(4, 3, padding="causal", activation="relu")(inputs)
    states = layers.LSTM(4)(layers.LayerNormalization()(near))
    model = keras.Model(inputs, layers.Dense(1)(states))
    model.compile(optimizer, keras.losses.Huber(), metrics=["mae"])
    return model


KINDS["triplet"] = Kind(
    triplet,
    lambda rng: (tuple(normal(rng, 6) for _ in range(3)),),
    told=lambda logs, losses: {"loss": np.mean(losses)},
    called=False,
)
KINDS["contrastive"] = Kind(contrastive, lambda rng: (normal(rng, 6), rng.integers(2, size=BATCH)))
KINDS["masked language model"] = Kind(
    masked_language_model,
    hidden_words,
    told=lambda logs, losses: {"masked_loss": np.mean(losses[-REPLICAS:])},
)
KINDS["mini GPT"] = Kind(mini_gpt, lambda rng: (words(rng).astype(np.int32), words(rng)))
KINDS["distillation"] = Kind(distiller, lambda rng: (normal(rng, 6), rng.integers(3, size=BATCH)))
# Each worker and step draws from its own stream, which one device does not know.
KINDS["autoencoder"] = Kind(autoencoder, lambda rng: (normal(rng, 6),), equality=False)
KINDS["quantized"] = Kind(quantized, lambda rng: (lambda x: (x, x))(normal(rng, 6)))
KINDS["mixup"] = Kind(mixup, mixed)
KINDS["graph attention"] = Kind(graph_attention, graph)
KINDS["wide and deep"] = Kind(wide_and_deep, rows)
KINDS["time series"] = Kind(time_series, lambda rng: (normal(rng, LENGTH, 3), normal(rng, 1)))


# Layers and losses of the others are also in test_models.
FIRST = ("masked language model",)


@pytest.mark.parametrize("name", with_extra(KINDS, *(set(KINDS) - set(FIRST))))
def test_trains_as_on_one_device(strategy: Any, name: str, tmp_path: Path) -> None:
    check(strategy, KINDS[name], tmp_path)
