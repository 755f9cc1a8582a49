"""Gated PixelCNN, a generative model of images that predicts each value from the previous ones.

Reproduces the model of section 4.3 of Chen et al., Revisiting Distributed Synchronous SGD
(arXiv 1604.00981v3): van den Oord et al., Conditional Image Generation with PixelCNN Decoders
(arXiv 1606.05328), with two stacks of masked convolutions, gates, residuals, and 256 classes for
every value. Neither paper gives the sizes for CIFAR-10; the paper's recipe uses those of van den
Oord et al. for ImageNet.

Values are ordered by row, column and channel (red, green, blue). A vertical stack sees the rows
above, and a horizontal stack the pixels to the left in the same row: together, all previous values.
In the horizontal stack, features belong to channels. The features of a channel see those of
previous channels, and after the first layer also those of their own (mask A, then mask B).
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from models.tensor import Tensor

LEVELS = 256


def build(
    shape: tuple[int, int, int],
    classes: int | None = None,
    *,
    features: int = 48,
    depth: int = 5,
    size: int = 5,
) -> keras.Model:
    """Return an uncompiled Gated PixelCNN.

    Args:
      shape: height, width and channels of an image, whose values are in [0, 1].
      classes: number of classes, to condition the model on the class; None for no conditioning.
      features: number of features of each stack; a multiple of the number of channels.
      depth: number of gated layers.
      size: height and width of a convolution's window without a mask; odd.

    Returns:
      A model from images, [batch, height, width, channels] float32, to the logits of their values,
      [batch, height, width, channels, 256] float32. With `classes`, the input is a dictionary of
      "image" and "label", [batch] integers.

    Raises:
      ValueError: if `features` is not a multiple of the number of channels, or `size` is even.
    """
    if features % shape[-1] or size % 2 == 0:
        raise ValueError(
            f"features is {features} and size is {size}, for images of {shape[-1]} channels; every "
            "channel has as many features, and a filter a middle. Let features be a multiple of "
            "the channels and size odd."
        )
    image = keras.Input(shape, name="image")
    label = None if classes is None else keras.Input((), dtype="int32", name="label")
    scaled = keras.layers.Rescaling(2.0, -1.0)(image)
    vertical = horizontal = scaled
    for index in range(depth):
        layer = GatedLayer(features, size, shape[-1], classes, first=index == 0)
        vertical, horizontal = layer(vertical, horizontal, label)
    x = horizontal
    for filters in (features, LEVELS * shape[-1]):
        x = keras.layers.ReLU()(x)
        x = MaskedConv2D(filters, (1, 1), shape[-1], "B")(x)
    logits = keras.layers.Reshape((*shape, LEVELS))(x)
    inputs = image if label is None else {"image": image, "label": label}
    return keras.Model(inputs, logits, name="pixelcnn")


def compile_arguments() -> dict[str, Any]:
    """Return the loss, in nats per dimension, and the metrics for `compile`."""
    nats = keras.metrics.SparseCategoricalCrossentropy("nats_per_dim", from_logits=True)
    return {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": [nats, BitsPerDim()],
    }


def prepare(image: Tensor, label: Tensor, conditional: bool = False) -> tuple[Any, Tensor]:
    """Return an example: an image, with its label if conditional, and its values as targets.

    Args:
      image: [height, width, channels] float32 in [0, 1].
      label: [] integer.
      conditional: whether the model is conditioned on the class.
    """
    values = tf.cast(tf.round(image * (LEVELS - 1)), tf.int32)
    return ({"image": image, "label": label} if conditional else image), values


@keras.saving.register_keras_serializable(package="tf_backup_models")
class BitsPerDim(keras.metrics.SparseCategoricalCrossentropy):
    """Mean of -log2 p over all values, from logits."""

    def __init__(self, name: str = "bits_per_dim", **kwargs: Any) -> None:
        super().__init__(name, **{**kwargs, "from_logits": True})

    def result(self) -> Tensor:
        """Return the mean, [] float32."""
        return super().result() / math.log(2.0)


@keras.saving.register_keras_serializable(package="tf_backup_models")
class MaskedConv2D(keras.layers.Layer):
    """Convolution whose filters see no rows below the pixel.

    With a mask, filters and features belong to the channels of the image, in equal parts. At the
    pixel itself, filters of a channel see previous channels (A), or also their own (B).

    Args:
      filters: number of filters.
      size: height and width of a filter. The pixel is in the last row: in its middle if there are
        several rows ("vertical", of odd width), in its last column if there is one.
      channels: number of channels of the image.
      mask: "A", "B" or None.
      parts: how often the filters run through the channels; 2 for the two halves of a gate.
    """

    def __init__(
        self,
        filters: int,
        size: tuple[int, int],
        channels: int,
        mask: str | None = None,
        parts: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.size, self.channels = filters, tuple(size), channels
        self.mask, self.parts = mask, parts

    def build(self, input_shape: Any) -> None:
        """Create the kernel and the biases."""
        shape = (*self.size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.open = np.ones(shape, np.float32)
        if self.mask:
            before = _channel_of(input_shape[-1], self.channels)[:, np.newaxis]
            here = np.tile(_channel_of(self.filters // self.parts, self.channels), self.parts)
            self.open[-1, -1] = before < here if self.mask == "A" else before <= here

    def call(self, x: Tensor) -> Tensor:
        """Convolve [batch, height, width, features] to [batch, height, width, filters], float32."""
        rows, columns = self.size
        left, right = columns - 1, 0
        if rows > 1:
            left = right = columns // 2
        x = ops.pad(x, [[0, 0], [rows - 1, 0], [left, right], [0, 0]])
        return ops.conv(x, self.kernel * self.open, padding="valid") + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input's shape with `filters` features."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"filters": self.filters, "size": self.size, "channels": self.channels}
        return {**super().get_config(), **own, "mask": self.mask, "parts": self.parts}


@keras.saving.register_keras_serializable(package="tf_backup_models")
class GatedLayer(keras.layers.Layer):
    """Gated layer of both stacks.

    The first layer sees the image: its vertical stack sees only the rows above, and its horizontal
    stack has mask A and no residual.

    Args:
      features: number of features of each stack.
      size: height and width of a convolution's window without a mask.
      channels: number of channels of the image.
      classes: number of classes, or None.
      first: whether this is the first layer.
    """

    def __init__(
        self,
        features: int,
        size: int,
        channels: int,
        classes: int | None = None,
        first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        own = {"features": features, "size": size, "channels": channels}
        self._arguments = {**own, "classes": classes, "first": first}
        self.first = first
        reach = size // 2 + 1
        both = 2 * features
        self.down = MaskedConv2D(both, (reach, size), channels)
        self.across = MaskedConv2D(both, (1, reach), channels, "A" if first else "B", parts=2)
        self.link = MaskedConv2D(both, (1, 1), channels)
        self.out = MaskedConv2D(features, (1, 1), channels, "B")
        self.of_class = None if classes is None else keras.layers.Embedding(classes, 2 * both)

    def build(self, vertical_shape: Any, horizontal_shape: Any, label_shape: Any = None) -> None:
        """Create the variables of all sublayers."""
        self.down.build(vertical_shape)
        self.across.build(horizontal_shape)
        both = self.down.compute_output_shape(vertical_shape)
        self.link.build(both)
        self.out.build((*both[:-1], both[-1] // 2))
        if self.of_class is not None:
            self.of_class.build(label_shape)

    def call(
        self, vertical: Tensor, horizontal: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return both stacks' features, [batch, height, width, features] float32.

        Args:
          vertical: vertical features of the layer below; the image in the first layer.
          horizontal: horizontal features of the layer below; the image in the first layer.
          label: [batch] integers, if there are classes.
        """
        down = self.down(vertical)
        if self.first:  # Shift down: each row then sees only the rows above it.
            down = ops.pad(down[:, :-1], [[0, 0], [1, 0], [0, 0], [0, 0]])
        across = self.across(horizontal) + self.link(down)
        if self.of_class is not None:
            both = self.of_class(label)[:, None, None, :]
            to_down, to_across = ops.split(both, 2, axis=-1)
            down, across = down + to_down, across + to_across
        out = self.out(_gated(across))
        return _gated(down), out if self.first else horizontal + out

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **self._arguments}


def _gated(x: Tensor) -> Tensor:
    values, gates = ops.split(x, 2, axis=-1)
    return ops.tanh(values) * ops.sigmoid(gates)


def _channel_of(features: int, channels: int) -> np.ndarray[Any, Any]:
    """Return the channel that each feature belongs to, [features]."""
    return np.arange(features) * channels // features


def sample(
    model: keras.Model, count: int, seed: int = 0, labels: Any = None
) -> np.ndarray[Any, Any]:
    """Return images that the model draws, value by value.

    This takes one forward pass for each value of an image.

    Args:
      model: a PixelCNN.
      count: number of images to draw.
      seed: seed of the draws.
      labels: classes of the images ([count] integers), if the model has classes.

    Returns:
      [count, height, width, channels] float32 in [0, 1]; `picture.write` saves them to a file.
    """
    shape = model.output_shape[1:4]

    @tf.function
    def draw(images: Tensor, row: Tensor, column: Tensor, channel: Tensor) -> Tensor:
        inputs = images if labels is None else {"image": images, "label": tf.constant(labels)}
        logits = model(inputs, training=False)[:, row, column, channel]
        place = (row * shape[1] + column) * shape[2] + channel
        return tf.random.stateless_categorical(logits, 1, tf.stack([seed, place]))[:, 0]

    images = np.zeros((count, *shape), np.float32)
    for place in np.ndindex(*shape):
        values = draw(tf.constant(images), *(tf.constant(axis) for axis in place))
        everywhere = (slice(None), *place)
        images[everywhere] = values.numpy() / (LEVELS - 1.0)
    return images
