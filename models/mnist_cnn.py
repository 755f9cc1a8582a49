"""Four-layer CNN for MNIST, from the paper's experiments with simulated staleness.

Reproduces the model of section 2.1 and appendix A.1 of Chen et al., Revisiting Distributed
Synchronous SGD (arXiv 1604.00981v3): four layers of 3 x 3 filters, each with weight normalisation
(Salimans and Kingma, arXiv 1602.07868) and max-pooling, and images that are slightly rotated and
zoomed. The paper does not give channels, batch size or the ranges of rotation and zoom; the values
here are choices. The fourth pooling reduces 3 x 3 to 1 x 1; a plain dense layer computes logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from models.small_cnn import compile_arguments, prepare
from models.tensor import Tensor

__all__ = ["WeightNormConv2D", "augment", "augmented", "build", "compile_arguments", "prepare"]


CHANNELS = (32, 64, 64, 128)


def build(
    shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    channels: Sequence[int] = CHANNELS,
) -> keras.Model:
    """Return an uncompiled network of weight-normalised convolutions.

    Args:
      shape: height, width and channels of an image, whose values are in [0, 1].
      classes: number of classes.
      channels: number of filters of each layer; each layer halves height and width.

    Returns:
      A model from [batch, height, width, channels] float32 to [batch, classes] float32 logits.

    Raises:
      ValueError: if the images are too small for the number of layers.
    """
    smallest = 2 ** len(channels)
    if min(shape[:2]) < smallest:
        raise ValueError(
            f"images are {shape[0]} x {shape[1]}, but {len(channels)} layers that halve them need "
            f"{smallest} x {smallest} or more. Enlarge them, or have fewer layers (channels)."
        )
    images = keras.Input(shape)
    x = images
    for filters in channels:
        x = WeightNormConv2D(filters)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(images, keras.layers.Dense(classes)(x), name="mnist_cnn")


@keras.saving.register_keras_serializable(package="tf_backup_models")
class WeightNormConv2D(keras.layers.Layer):
    """Convolution with `same` padding and filters w = g v / |v|.

    The scales g start at sqrt(2), so that convolution and ReLU preserve the scale of the input.

    Args:
      filters: number of filters.
      size: height and width of a filter.
    """

    def __init__(self, filters: int, size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.size = filters, size

    def build(self, input_shape: Any) -> None:
        """Create the directions, scales and biases."""
        self.direction = self.add_weight(
            shape=(self.size, self.size, input_shape[-1], self.filters),
            initializer="he_normal",  # So that they are about as long as the filters w.
            name="direction",
        )
        two = keras.initializers.Constant(math.sqrt(2.0))
        self.scale = self.add_weight(shape=(self.filters,), initializer=two, name="scale")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def filter(self) -> Tensor:
        """Return w, [size, size, channels, filters] float32."""
        square = ops.sum(ops.square(self.direction), axis=(0, 1, 2))
        return self.direction * (self.scale * ops.rsqrt(square))

    def call(self, images: Tensor) -> Tensor:
        """Convolve [batch, height, width, channels] to [batch, height, width, filters], float32."""
        return ops.conv(images, self.filter(), padding="same") + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input's shape with `filters` channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "filters": self.filters, "size": self.size}


def augmented(batches: tf.data.Dataset, seed: int = 0) -> tf.data.Dataset:
    """Return batches whose images are rotated and zoomed, differently in every pass.

    Args:
      batches: batches of ([batch, height, width, channels] float32 images, labels). They must be
        endless or already repeated, since the n-th batch is always changed in the same way.
      seed: seed of all changes.
    """

    def change(index: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return augment(images, tf.stack([seed, index])), labels

    return tf.data.Dataset.zip(tf.data.Dataset.counter(), batches).map(change)


def augment(images: Tensor, seed: Tensor, degrees: float = 10.0, zoom: float = 0.1) -> Tensor:
    """Rotate and zoom each image independently about its centre; deterministic given `seed`.

    Args:
      images: [batch, height, width, channels] float32.
      seed: [2] integers.
      degrees: largest rotation, in either direction.
      zoom: largest relative change of size, in either direction.

    Returns:
      Images of the same shape, with zeros outside the original image.
    """
    draws = tf.random.stateless_uniform([2, tf.shape(images)[0]], seed, -1.0, 1.0)
    angle = draws[0] * (degrees * math.pi / 180.0)
    # Maps output pixels to input pixels: the larger the zoom, the nearer to the centre.
    size = 1.0 / (1.0 + draws[1] * zoom)
    cos, sin = size * tf.cos(angle), size * tf.sin(angle)
    x, y = (images.shape[2] - 1) / 2.0, (images.shape[1] - 1) / 2.0
    zero = tf.zeros_like(angle)
    rows = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, zero, zero]
    return ops.image.affine_transform(images, tf.stack(rows, axis=1), "bilinear", "constant", 0.0)
