"""Learning rates that fall, by the number of updates made."""

from __future__ import annotations

from typing import Any

import keras

from scripts.training.recipe import ByPasses, ByTraining, Cosine, Decay, LinearAtEnd


def schedule(decay: Decay, initial: float, updates: int, updates_per_pass: float) -> Any:
    """Returns a learning rate as an optimizer takes it.

    Args:
      decay: how it falls.
      initial: what it is before the first update.
      updates: of the whole training.
      updates_per_pass: how many make one pass over the data.

    Returns:
      A Keras schedule, or `initial` if it does not fall.
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
    """Constant at first, then linear to 0.

    Args:
      initial: the learning rate at first.
      updates: after how many it is 0.
      part: of the updates, in which it falls.
    """

    def __init__(self, initial: float, updates: int, part: float) -> None:
        self.initial, self.updates, self.part = initial, updates, part

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of the update after `step` updates, [] float32."""
        left = 1.0 - keras.ops.cast(step, "float32") / self.updates
        return self.initial * keras.ops.clip(left / self.part, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"initial": self.initial, "updates": self.updates, "part": self.part}
