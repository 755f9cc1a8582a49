"""DRAW's attention: a grid of Gaussian filters over a part of an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from models.tensor import Tensor


class Window(NamedTuple):
    """A part of each image, seen through a grid of filters.

    Attributes:
      rows: filters of the grid's rows over the image's rows, [batch, size, height] float32.
      columns: filters of the grid's columns over the image's columns, [batch, size, width] float32.
      strength: scale of glimpses, [batch, 1, 1] float32.
    """

    rows: Tensor
    columns: Tensor
    strength: Tensor

    def read(self, images: Tensor) -> Tensor:
        """Return [batch, size, size] glimpses of [batch, height, width] images, float32."""
        seen = ops.matmul(ops.matmul(self.rows, images), ops.transpose(self.columns, [0, 2, 1]))
        return self.strength * seen

    def write(self, strokes: Tensor) -> Tensor:
        """Return [batch, height, width] images of [batch, size, size] strokes, float32."""
        painted = ops.matmul(ops.matmul(ops.transpose(self.rows, [0, 2, 1]), strokes), self.columns)
        return painted / self.strength


@keras.saving.register_keras_serializable(package="tf_backup_models")
class Attention(keras.layers.Layer):
    """Layer that maps features to an attention window.

    Args:
      image_size: height and width of an image.
      size: height and width of the grid, 2 or more.

    Reference:
      Gregor et al., arXiv 1502.04623, section 3.2.
    """

    def __init__(self, image_size: tuple[int, int], size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 2:
            raise ValueError(f"size is {size}, but a grid has a stride: it must be 2 or more.")
        self.image_size, self.size = tuple(image_size), size
        self.where = keras.layers.Dense(5, name="where")

    def build(self, input_shape: Any) -> None:
        """Create the variables."""
        self.where.build(input_shape)

    def call(self, features: Tensor) -> Window:
        """Return the window for features, [batch, features] float32."""
        x, y, log_variance, log_stride, log_strength = ops.split(self.where(features), 5, axis=-1)
        height, width = self.image_size
        stride = (max(height, width) - 1) / (self.size - 1) * ops.exp(log_stride)
        offsets = ops.arange(self.size, dtype="float32") - (self.size - 1) / 2.0
        return Window(
            rows=_filters((height - 1) / 2.0 * (y + 1.0) + offsets * stride, log_variance, height),
            columns=_filters((width - 1) / 2.0 * (x + 1.0) + offsets * stride, log_variance, width),
            strength=ops.exp(log_strength)[..., None],
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "image_size": self.image_size, "size": self.size}


def _filters(middles: Tensor, log_variance: Tensor, pixels: int) -> Tensor:
    """Return normal distributions over pixels, [batch, size, pixels] float32.

    Args:
      middles: means in pixels, counted from 0, [batch, size] float32.
      log_variance: [batch, 1] float32.
      pixels: number of pixels.
    """
    away = ops.arange(pixels, dtype="float32") - middles[..., None]
    # A softmax equals division by the sum, and is stable far outside the image.
    return ops.softmax(-0.5 * ops.square(away) * ops.exp(-log_variance)[..., None], axis=-1)
