"""The benchmark's models: Keras and plain TensorFlow train the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from scripts.benchmarks import architectures, batches, keras_layers, plain_layers
from scripts.benchmarks.architectures import Architecture, Layers


def images(net: Layers, x: Any) -> Any:
    """Use every image layer once."""
    x = net.conv_norm(x, 3, (3, 1), 2, "valid")
    x = net.concatenate([net.average_pool(x), net.conv(x, 2, 3, "relu")])
    x = net.dense(net.flatten(net.max_pool(x, 2, 1)), 4, "tanh")
    return net.dense(x, 3)


def pooled(net: Layers, x: Any) -> Any:
    """Average images after batch normalization."""
    return net.dense(net.mean(net.conv_norm(x, 4, (1, 3), 1, "same"), [1, 2]), 2)


def table(net: Layers, x: Any) -> Any:
    """Look rows up, some of them several times."""
    return net.dense(net.mean(net.embedding(x, 5, 3), [1]), 1)


SMALL = {
    each.name: each
    for each in (
        Architecture("images", "", images, (9, 7, 2), batch_size=4, outputs=3),
        Architecture("pooled", "", pooled, (4, 4, 1), batch_size=3, outputs=2, classes=False),
        Architecture("table", "", table, (4,), batch_size=3, outputs=1, ids=5, classes=False),
    )
}


@pytest.mark.parametrize("name", SMALL)
def test_an_update_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = SMALL[name]
    monkeypatch.setattr(plain_layers, "LEARNING_RATE", 1.0)
    model: Any = keras_layers.build(architecture)
    model.compile(keras.optimizers.SGD(1.0), keras_layers.loss(architecture))
    weights = plain_layers.weights(architecture)
    variables = [
        tf.Variable(value, trainable=weight.trainable)
        for value, weight in zip(model.get_weights(), weights, strict=True)
    ]
    begin = model.get_weights()
    x, y = batches.batch(architecture, worker=1)
    model.train_on_batch(x, y)
    plain_layers.update(architecture, variables, x, tf.constant(y))
    for before, variable, after in zip(begin, variables, model.get_weights(), strict=True):
        np.testing.assert_allclose(variable.numpy(), after, atol=1e-5)
        assert not np.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["dense", "cnn", pytest.param("inception", marks=pytest.mark.slow)]
)
def test_models_have_the_same_weights(name: str) -> None:
    model = keras_layers.build(architectures.ALL[name])
    weights = plain_layers.weights(architectures.ALL[name])
    assert Counter((weight.shape, weight.trainable) for weight in weights) == Counter(
        (tuple(variable.shape), variable.trainable) for variable in model.weights
    )
    if name == "inception":
        applications = keras.applications.InceptionV3(weights=None, input_shape=(75, 75, 3))
        assert model.count_params() == applications.count_params()


def test_initial_weights_are_those_of_keras() -> None:
    for weight in plain_layers.weights(SMALL["images"]) + plain_layers.weights(SMALL["table"]):
        value = weight.value().numpy()
        assert value.shape == weight.shape
        assert (np.std(value) > 0) == (weight.initial in ("glorot", "uniform"))


@pytest.mark.parametrize("architecture", architectures.ALL.values(), ids=lambda a: a.name)
def test_a_batch_is_of_one_worker_and_always_the_same(architecture: Architecture) -> None:
    x, y = batches.batch(architecture, worker=0)
    assert x.shape == (architecture.batch_size, *architecture.shape)
    assert y.shape == (x.shape[0],) if architecture.classes else (x.shape[0], architecture.outputs)
    np.testing.assert_array_equal(x, batches.batch(architecture, worker=0)[0])
    assert not np.array_equal(x, batches.batch(architecture, worker=1)[0])
    elements = iter(batches.repeated(architecture, worker=0))
    for _ in range(3):
        np.testing.assert_array_equal(next(elements)[0], x)
