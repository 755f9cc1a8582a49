"""Models that several tests train one after the other, since each new model costs seconds."""

from __future__ import annotations

from typing import Any

COUNTS = ("computed", "accepted", "late", "stale", "duplicate", "lost", "nonfinite")


class Shared:
    """A compiled model that can be set back to its beginning.

    Its engine does not repeat step numbers: messages that name a step name a later one.

    Args:
      strategy: strategy of the model.
      model: the model, with a wrapped optimizer, built.
    """

    def __init__(self, strategy: Any, model: Any) -> None:
        self.model = model
        with strategy.scope():
            model.optimizer.build(model.trainable_variables)
        self._start = [variable.numpy() for variable in self._variables()]
        self._before = self._counts()

    def set_back(self) -> Any:
        """Reset all variables to their initial values, count from here, and return the model."""
        self.model.stop_training = False
        for variable, value in zip(self._variables(), self._start, strict=True):
            variable.assign(value)
        self._before = self._counts()
        return self.model

    def counts(self) -> list[dict[str, int]]:
        """Return what became of each worker's gradients since the model was set back."""
        pairs = zip(self._counts(), self._before, strict=True)
        return [{name: now[name] - before[name] for name in COUNTS} for now, before in pairs]

    def total(self) -> dict[str, int]:
        """Return what became of all workers' gradients since the model was set back."""
        return {name: sum(each[name] for each in self.counts()) for name in COUNTS}

    @property
    def updates(self) -> int:
        """Number of updates since the model was set back; also checks that all counts add up."""
        made, total = int(self.model.optimizer.iterations), self.total()
        assert total["computed"] == sum(total[name] for name in COUNTS[1:])
        assert total["nonfinite"] == 0
        assert total["accepted"] == self.model.optimizer.replicas * made
        return made

    def _variables(self) -> list[Any]:
        # Those of the model change when it is compiled or evaluated: metrics have some, too.
        return [
            *self.model.trainable_variables,
            *self.model.non_trainable_variables,
            *self.model.optimizer.variables,
        ]

    def _counts(self) -> list[dict[str, Any]]:
        return [each.as_dict() for each in self.model.optimizer.contributions.workers]
