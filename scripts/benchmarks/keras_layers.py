"""Layers and losses in Keras, for the systems that run `fit`."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from scripts.benchmarks.architectures import Architecture
from tf_backup.annotations import Tensor

layers = keras.layers


class KerasLayers:
    """Layers of a functional Keras model; see `architectures.Layers`."""

    def dense(self, x: Tensor, units: int, activation: str | None = None) -> Tensor:
        """Return a dense layer."""
        return layers.Dense(units, activation)(x)

    def conv(self, x: Tensor, filters: int, size: int, activation: str) -> Tensor:
        """Return a convolution with a bias."""
        return layers.Conv2D(filters, size, padding="same", activation=activation)(x)

    def conv_norm(
        self, x: Tensor, filters: int, size: tuple[int, int], strides: int, padding: str
    ) -> Tensor:
        """Return a convolution with batch normalization and ReLU."""
        x = layers.Conv2D(filters, size, strides, padding, use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(scale=False)(x))

    def max_pool(self, x: Tensor, size: int, strides: int) -> Tensor:
        """Return max-pooling."""
        return layers.MaxPooling2D(size, strides)(x)

    def average_pool(self, x: Tensor) -> Tensor:
        """Return average-pooling."""
        return layers.AveragePooling2D(3, 1, "same")(x)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the parts side by side."""
        return layers.Concatenate()(list(parts))

    def flatten(self, x: Tensor) -> Tensor:
        """Return [batch, features]."""
        return layers.Flatten()(x)

    def embedding(self, ids: Tensor, rows: int, columns: int) -> Tensor:
        """Return looked-up rows."""
        return layers.Embedding(rows, columns)(ids)

    def mean(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the mean over all axes but the first and the last."""
        if len(axes) == 1:
            return layers.GlobalAveragePooling1D()(x)
        return layers.GlobalAveragePooling2D()(x)


def build(architecture: Architecture) -> keras.Model:
    """Return an uncompiled model."""
    dtype = "float32" if architecture.ids is None else "int64"
    inputs = keras.Input(architecture.shape, dtype=dtype)
    return keras.Model(inputs, architecture.forward(KerasLayers(), inputs))


def loss(architecture: Architecture) -> keras.losses.Loss:
    """Return the loss to compile with."""
    if architecture.classes:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras.losses.MeanSquaredError()
