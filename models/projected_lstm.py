"""LSTM whose output is a linear projection of its cells: many cells, few outputs."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from models.tensor import Tensor


@keras.saving.register_keras_serializable(package="tf_backup_models")
class ProjectedLSTMCell(keras.layers.Layer):
    """Cell of an LSTM with projection, for `keras.layers.RNN`.

    Args:
      units: number of cells.
      projection: number of outputs, which are also an input of the next step.

    Reference:
      Sak, Senior and Beaufays, Long Short-Term Memory Based Recurrent Neural Network
      Architectures (arXiv 1402.1128), without peepholes.
    """

    def __init__(self, units: int, projection: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.projection = units, projection
        self.state_size = [projection, units]
        self.output_size = projection

    def build(self, input_shape: Any) -> None:
        """Create the weights; one kernel serves inputs, outputs and all four gates."""
        rows = input_shape[-1] + self.projection
        self.kernel = self.add_weight(shape=(rows, 4 * self.units), name="kernel")
        self.bias = self.add_weight(shape=(4 * self.units,), initializer="zeros", name="bias")
        self.projecting = self.add_weight(shape=(self.units, self.projection), name="projecting")

    def call(self, inputs: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute one step.

        Args:
          inputs: [batch, features] float32.
          states: previous outputs [batch, projection] and cells [batch, units], float32.

        Returns:
          Outputs, [batch, projection] float32, and the new states.
        """
        last, cells = states
        every = ops.matmul(ops.concatenate([inputs, last], axis=-1), self.kernel) + self.bias
        enter, forget, candidate, leave = ops.split(every, 4, axis=-1)
        cells = ops.sigmoid(forget + 1.0) * cells + ops.sigmoid(enter) * ops.tanh(candidate)
        outputs = ops.matmul(ops.sigmoid(leave) * ops.tanh(cells), self.projecting)
        return outputs, [outputs, cells]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "units": self.units, "projection": self.projection}
