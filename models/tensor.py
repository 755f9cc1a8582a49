"""The type of tensors, which TensorFlow and Keras leave untyped, for annotations."""

from __future__ import annotations

from typing import Any

Tensor = Any  # a tf.Tensor, or a keras.KerasTensor while a model is built
