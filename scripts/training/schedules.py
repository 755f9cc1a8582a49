"""Learning-rate schedules, by the number of updates made."""

from __future__ import annotations

from typing import Any

import keras

from scripts.training.recipe import ByPasses, ByTraining, Cosine, Decay, LinearAtEnd


def schedule(decay: Decay, initial: float, updates: int, updates_per_pass: float) -> Any:
    """Return a learning rate in the form that optimizers take.

    Args:
      decay: how it decreases.
      initial: learning rate before the first update.
      updates: number of updates in the whole training run.
      updates_per_pass: number of updates in one pass over the data.

    Returns:
      A Keras schedule, or `initial` if the learning rate is constant.
    """
    if isinstance(decay, ByPasses):
        steps = decay.passes * updates_per_pass
        return keras.optimizers.schedules.ExponentialDecay(initial, steps, decay.factor)
    if isinstance(decay, ByTraining):
        return keras.optimizers.schedules.ExponentialDecay(initial, updates, decay.factor)
    if isinstance(decay, LinearAtEnd):
        return LinearAtEndSchedule(initial, updates, decay.part)
    if isinstance(decay, Cosine):
        return keras.optimizers.schedules.CosineDecay(initial, updates)
    return initial


@keras.saving.register_keras_serializable(package="tf_backup_models")
class LinearAtEndSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Schedule that is constant at first, then linear to 0.

    Keras has none: its PolynomialDecay falls from the first update on.

    Args:
      initial: learning rate at first.
      updates: number of updates after which it is 0.
      part: last part of the updates, in which it decreases.
    """

    def __init__(self, initial: float, updates: int, part: float) -> None:
        self.initial, self.updates, self.part = initial, updates, part

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of the update after `step` updates, [] float32."""
        left = 1.0 - keras.ops.cast(step, "float32") / self.updates
        return self.initial * keras.ops.clip(left / self.part, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"initial": self.initial, "updates": self.updates, "part": self.part}
