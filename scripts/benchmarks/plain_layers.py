"""Layers, losses and updates in plain TensorFlow, for the systems that Keras 3 does not support.

A model is a list of weights and functions of variables; each system creates the variables in its
own way. Shapes, initial distributions and arithmetic are those of Keras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from scripts.benchmarks.architectures import LEARNING_RATE, Architecture
from tf_backup.annotations import Tensor, Variable

_MOMENTUM, _EPSILON = 0.99, 1e-3  # Of batch normalization, as in Keras.


@dataclasses.dataclass(frozen=True)
class Weight:
    """Specification of a float32 variable.

    Attributes:
      shape: shape of the variable.
      initial: initializer, one of "glorot", "uniform", "zeros", "ones".
      trainable: False for the moving averages of batch normalization.
    """

    shape: tuple[int, ...]
    initial: str
    trainable: bool = True

    @property
    def initializer(self) -> Any:
        """The initializer, a function of shape and dtype."""
        return _INITIAL[self.initial]

    def value(self) -> Tensor:
        """Return an initial value."""
        return self.initializer(self.shape, tf.float32)


_INITIAL = {
    "glorot": tf.compat.v1.glorot_uniform_initializer(),
    "uniform": tf.compat.v1.random_uniform_initializer(-0.05, 0.05),
    "zeros": tf.compat.v1.zeros_initializer(),
    "ones": tf.compat.v1.ones_initializer(),
}


class PlainLayers:
    """Layers as functions of given weights; see `architectures.Layers`.

    Args:
      given: variables in the order in which the layers use them; None records the weights that
        the layers need instead.

    Attributes:
      weights: the weights used so far.
      moved: moving averages and their new values.
    """

    def __init__(self, given: Iterator[Variable] | None = None) -> None:
        self._given = given
        self.weights: list[Weight] = []
        self.moved: list[tuple[Variable, Tensor]] = []

    def dense(self, x: Tensor, units: int, activation: str | None = None) -> Tensor:
        """Return a dense layer."""
        y = tf.matmul(x, self._weight((x.shape[-1], units), "glorot"))
        return _ACTIVATIONS[activation](y + self._weight((units,), "zeros"))

    def conv(self, x: Tensor, filters: int, size: int, activation: str) -> Tensor:
        """Return a convolution with a bias."""
        y = self._convolution(x, filters, (size, size), 1, "same")
        return _ACTIVATIONS[activation](y + self._weight((filters,), "zeros"))

    def conv_norm(
        self, x: Tensor, filters: int, size: tuple[int, int], strides: int, padding: str
    ) -> Tensor:
        """Return a convolution with batch normalization and ReLU."""
        return tf.nn.relu(self._norm(self._convolution(x, filters, size, strides, padding)))

    def max_pool(self, x: Tensor, size: int, strides: int) -> Tensor:
        """Return max-pooling."""
        return tf.nn.max_pool2d(x, size, strides, "VALID")

    def average_pool(self, x: Tensor) -> Tensor:
        """Return average-pooling."""
        return tf.nn.avg_pool2d(x, 3, 1, "SAME")

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the parts side by side."""
        return tf.concat(parts, axis=-1)

    def flatten(self, x: Tensor) -> Tensor:
        """Return [batch, features]."""
        return tf.reshape(x, [-1, x.shape[1:].num_elements()])

    def embedding(self, ids: Tensor, rows: int, columns: int) -> Tensor:
        """Return looked-up rows; the gradient of the table is sparse."""
        return tf.nn.embedding_lookup(self._weight((rows, columns), "uniform"), ids)

    def mean(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the mean over axes."""
        return tf.reduce_mean(x, axes)

    def _convolution(
        self, x: Tensor, filters: int, size: tuple[int, int], strides: int, padding: str
    ) -> Tensor:
        kernel = self._weight((*size, x.shape[-1], filters), "glorot")
        return tf.nn.conv2d(x, kernel, strides, padding.upper())

    def _norm(self, x: Tensor) -> Tensor:
        """Return batch normalization without a scale, by the batch's own moments."""
        channels = (x.shape[-1],)
        offset = self._weight(channels, "zeros")
        averages = self._weight(channels, "zeros", False), self._weight(channels, "ones", False)
        moments = tf.nn.moments(x, [0, 1, 2])
        if self._given is not None:
            for average, moment in zip(averages, moments, strict=True):
                moved = average * _MOMENTUM + moment * (1.0 - _MOMENTUM)
                self.moved.append((average, moved))
        return tf.nn.batch_normalization(x, *moments, offset, None, _EPSILON)

    def _weight(self, shape: tuple[int, ...], initial: str, trainable: bool = True) -> Variable:
        self.weights.append(Weight(shape, initial, trainable))
        if self._given is None:
            return tf.compat.v1.placeholder(tf.float32, shape)
        return next(self._given)


_ACTIVATIONS = {"tanh": tf.nn.tanh, "relu": tf.nn.relu, None: tf.identity}


def weights(architecture: Architecture) -> list[Weight]:
    """Return the weights of a model."""
    with tf.Graph().as_default():
        dtype = tf.float32 if architecture.ids is None else tf.int64
        net = PlainLayers()
        architecture.forward(net, tf.compat.v1.placeholder(dtype, (None, *architecture.shape)))
    return net.weights


def loss(
    architecture: Architecture, variables: Sequence[Variable], x: Tensor, y: Tensor
) -> tuple[Tensor, list[tuple[Variable, Tensor]]]:
    """Return the loss of a batch, [] float32, and the moving averages with their new values."""
    net = PlainLayers(iter(variables))
    output = architecture.forward(net, x)
    if architecture.classes:
        of_each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=output)
        return tf.reduce_mean(of_each), net.moved
    return tf.reduce_mean(tf.math.squared_difference(output, y)), net.moved


def gradients(
    architecture: Architecture, variables: Sequence[Variable], x: Tensor, y: Tensor
) -> list[Tensor]:
    """Return the gradients of the trainable variables, and move the moving averages."""
    with tf.GradientTape() as tape:
        value, moved = loss(architecture, variables, x, y)
    for average, new in moved:
        average.assign(new)
    found: list[Tensor] = tape.gradient(value, trainable(variables))
    return found


def update(architecture: Architecture, variables: Sequence[Variable], x: Tensor, y: Tensor) -> None:
    """Make one update of one gradient."""
    of_trainable = gradients(architecture, variables, x, y)
    for variable, gradient in zip(trainable(variables), of_trainable, strict=True):
        descend(variable, gradient)


def descend(variable: Variable, gradient: Tensor) -> None:
    """Update a variable by SGD, as Keras' optimizer does."""
    if isinstance(gradient, tf.IndexedSlices):
        step = tf.IndexedSlices(LEARNING_RATE * gradient.values, gradient.indices)
        variable.scatter_sub(step)
    else:
        variable.assign_sub(LEARNING_RATE * gradient)


def trainable(variables: Sequence[Variable]) -> list[Variable]:
    """Return the trainable variables."""
    return [variable for variable in variables if variable.trainable]
