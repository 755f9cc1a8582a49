"""Plan of a training run: a recipe, as changed by flags, for data of known size."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NamedTuple

from scripts.training import recipe as kinds
from scripts.training.recipe import Recipe


class Span(NamedTuple):
    """Consecutive epochs of equal length, which one call of `fit` makes."""

    initial_epoch: int  # index of the first epoch
    epochs: int  # index after the last epoch
    updates: int  # number of updates in each epoch


@dataclasses.dataclass(frozen=True)
class Plan:
    """Model, settings and length of a training run.

    Attributes:
      model: name of the model.
      recipe: settings, as changed by flags.
      replicas: N, the number of gradients averaged in an update.
      updates: number of updates in the whole training run.
      updates_per_pass: number of updates in one pass over the data; seldom a whole number.
      updates_per_epoch: number of updates between two validations.
    """

    model: str
    recipe: Recipe
    replicas: int
    updates: int
    updates_per_pass: float
    updates_per_epoch: int

    @classmethod
    def make(
        cls,
        model: str,
        recipe: Recipe,
        replicas: int,
        examples: int,
        updates_per_epoch: int | None = None,
    ) -> Plan:
        """Return the plan for a data set.

        Args:
          model: name of the model.
          recipe: settings, as changed by flags.
          replicas: N.
          examples: number of examples in one pass over the data.
          updates_per_epoch: number of updates between two validations; None for those of one pass
            over the data.
        """
        a_pass = recipe.updates_per_pass(examples, replicas)
        updates = recipe.total_updates(examples, replicas)
        per_epoch = updates_per_epoch or math.ceil(a_pass)
        return cls(model, recipe, replicas, updates, a_pass, per_epoch)

    def spans(self, start: int) -> list[Span]:
        """Return the epochs that are left after `start` updates.

        The first epoch may have started already, and the last may be shorter than the others.
        """
        found = []
        while start < self.updates:
            epoch = start // self.updates_per_epoch
            end = min(self.updates, (epoch + 1) * self.updates_per_epoch)
            whole = 1
            if end - start == self.updates_per_epoch:
                whole = (self.updates - start) // self.updates_per_epoch
            found.append(Span(epoch, epoch + whole, end - start))
            start = end + (whole - 1) * self.updates_per_epoch
        return found

    def optimizer(self, asynchronous: bool = False) -> Any:
        """Return a new plain Keras optimizer."""
        import keras

        from scripts.training.schedules import schedule

        recipe = self.recipe
        config = dict(recipe.options)
        initial = recipe.initial_learning_rate(self.replicas)
        rate = schedule(recipe.decay, initial, self.updates, self.updates_per_pass)
        clip = recipe.clip_async if asynchronous and recipe.clip is None else recipe.clip
        if clip is not None:
            config["global_clipnorm"] = clip
        if recipe.ema is not None:
            config.update(use_ema=True, ema_momentum=recipe.ema)
        return getattr(keras.optimizers, recipe.optimizer)(rate, **config)

    def to_json(self) -> str:
        """Return the plan as text that `from_json` reads."""
        fields = dataclasses.asdict(self)
        recipe = fields["recipe"]
        recipe["decay"] = {type(self.recipe.decay).__name__: recipe["decay"]}
        del recipe["sources"]
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that `to_json` wrote."""
        fields = json.loads(text)
        recipe = fields.pop("recipe")
        ((name, arguments),) = recipe.pop("decay").items()
        decay = getattr(kinds, name)(**arguments)
        return cls(recipe=Recipe(decay=decay, **recipe), **fields)

    def kept(self) -> dict[str, Any]:
        """Return the settings that must stay the same when training is resumed, by name.

        N is one of them: with another N, the number of updates would not measure the progress.
        """
        recipe = json.loads(self.to_json())["recipe"]
        ours = ("dataset", "data", "sizes", "optimizer", "options", "ema", "batch_size")
        return {
            "model": self.model,
            "replicas": self.replicas,
            **{name: recipe[name] for name in ours},
        }
