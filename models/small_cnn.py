"""Small convolutional network for images of digits, which is not part of the paper."""

from __future__ import annotations

from typing import Any

import keras

from models.tensor import Tensor


def build(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Return an uncompiled network of two convolutions and a dense layer.

    Args:
      shape: height, width and channels of an image, whose values are in [0, 1].
      classes: number of classes.

    Returns:
      A model from [batch, height, width, channels] float32 to [batch, classes] float32 logits.

    Raises:
      ValueError: if the images are smaller than 4 x 4.
    """
    if min(shape[:2]) < 4:
        raise ValueError(f"images are {shape[0]} x {shape[1]}; small_cnn needs 4 x 4 or more.")
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(classes),
        ],
        name="small_cnn",
    )


def compile_arguments() -> dict[str, Any]:
    """Return the loss and the metrics for `compile`."""
    return {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def prepare(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the example unchanged."""
    return image, label
