"""A training as it will be made: a recipe with what flags have changed, on data of known size."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NamedTuple

from scripts.training import recipe as kinds
from scripts.training.recipe import Recipe


class Span(NamedTuple):
    """Epochs of equal length, as one call of `fit` makes them."""

    initial_epoch: int  # where it begins
    epochs: int  # where it ends
    updates: int  # in each of them


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained, how, and for how long.

    Attributes:
      model: by name.
      recipe: with what flags have changed.
      replicas: N, gradients averaged in an update.
      updates: of the whole training.
      updates_per_pass: that make one pass over the data; seldom a whole number.
      updates_per_epoch: between two validations.
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
        """Returns the plan for a data set of so many training examples.

        Args:
          model: by name.
          recipe: with what flags have changed.
          replicas: N.
          examples: of one pass over the data.
          updates_per_epoch: between two validations; None for a pass over the data.
        """
        a_pass = recipe.updates_per_pass(examples, replicas)
        updates = recipe.total_updates(examples, replicas)
        per_epoch = updates_per_epoch or math.ceil(a_pass)
        return cls(model, recipe, replicas, updates, a_pass, per_epoch)

    def spans(self, start: int) -> list[Span]:
        """Returns what is left to do after `start` updates.

        The first epoch may have begun already, and the last may be shorter than the others.
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
        """Returns a new plain Keras optimizer."""
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
        """Returns the plan as a text that `from_json` reads."""
        fields = dataclasses.asdict(self)
        recipe = fields["recipe"]
        recipe["decay"] = {type(self.recipe.decay).__name__: recipe["decay"]}
        del recipe["sources"]
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Returns the plan that `to_json` has written."""
        fields = json.loads(text)
        recipe = fields.pop("recipe")
        ((name, arguments),) = recipe.pop("decay").items()
        decay = getattr(kinds, name)(**arguments)
        return cls(recipe=Recipe(decay=decay, **recipe), **fields)

    def kept(self) -> dict[str, Any]:
        """Returns what a training must keep when it goes on, by name.

        With other gradients in an update, the number of updates would not tell how far it is.
        """
        recipe = json.loads(self.to_json())["recipe"]
        ours = ("dataset", "data", "sizes", "optimizer", "options", "ema", "batch_size")
        return {
            "model": self.model,
            "replicas": self.replicas,
            **{name: recipe[name] for name in ours},
        }
