"""Recipe: the settings of a training run, including its length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Constant:
    """Constant learning rate."""

    def __str__(self) -> str:
        return "constant"


@dataclasses.dataclass(frozen=True)
class ByPasses:
    """Decay to initial x factor^(t / T), where T updates are `passes` passes over the data."""

    factor: float
    passes: float

    def __str__(self) -> str:
        return f"x {self.factor:g} every {self.passes:g} passes over the data, smoothly"


@dataclasses.dataclass(frozen=True)
class ByTraining:
    """Decay to initial x factor^(t / T), where T updates are the whole training run."""

    factor: float

    def __str__(self) -> str:
        return f"x {self.factor:g} over the whole training, smoothly"


@dataclasses.dataclass(frozen=True)
class LinearAtEnd:
    """Constant at first, then linear to 0 in the last `part` (0 to 1) of training."""

    part: float

    def __str__(self) -> str:
        return f"constant, then linear to 0 in the last {self.part:g} of the training"


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Half a cosine, from the initial learning rate to 0."""

    def __str__(self) -> str:
        return "half a cosine to 0"


Decay = Constant | ByPasses | ByTraining | LinearAtEnd | Cosine


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training run, unless flags change them.

    Attributes:
      dataset: name of the data set.
      optimizer: name of a Keras optimizer.
      options: its arguments, other than the learning rate.
      learning_rate: learning rate before the first update.
      per_replica: whether to multiply the learning rate by N.
      decay: how the learning rate decreases.
      batch_size: number of examples in one worker's batch.
      held_out_batch_size: number of examples in a batch of held-out data.
      replicas: N.
      backups: b.
      ps: number of parameter servers.
      passes: number of passes over the data; None if `updates` is given.
      updates: number of updates with N = `replicas`; another N makes as many passes.
      ema: decay of the moving average of the weights, which is evaluated; None for no average.
      clip: global norm to clip gradients to; None for no clipping.
      clip_async: the same, for asynchronous training.
      sizes: arguments of the model's `build`.
      data: arguments of `models.data.loading.load`.
      sources: sources of settings, by setting.
    """

    dataset: str
    optimizer: str
    learning_rate: float
    batch_size: int
    replicas: int
    backups: int
    decay: Decay = Constant()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    per_replica: bool = False
    held_out_batch_size: int = 64
    ps: int = 1
    passes: float | None = None
    updates: int | None = None
    ema: float | None = None
    clip: float | None = None
    clip_async: float | None = None
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def updates_per_pass(self, examples: int, replicas: int) -> float:
        """Return the number of updates of `replicas` gradients in one pass over the data."""
        return examples / (self.batch_size * replicas)

    def total_updates(self, examples: int, replicas: int) -> int:
        """Return the number of updates of `replicas` gradients in the whole training run.

        Half as many gradients in an update give twice as many updates: the number of passes over
        the data is the recipe's.
        """
        if self.updates is not None:
            return math.ceil(self.updates * self.replicas / replicas)
        assert self.passes is not None
        # Rounded first, or 0.07 x 100 would be 8.
        return math.ceil(round(self.passes * self.updates_per_pass(examples, replicas), 6))

    def initial_learning_rate(self, replicas: int) -> float:
        """Return the learning rate before the first update of `replicas` gradients."""
        return self.learning_rate * (replicas if self.per_replica else 1)

    def describe(self) -> list[tuple[str, str, str]]:
        """Return the settings as rows of name, value and source."""
        length = f"{self.updates} updates" if self.updates else f"{self.passes:g} passes"
        times = " x N" if self.per_replica else ""
        rows = {
            "dataset": " ".join([self.dataset, _arguments(self.data)]).strip(),
            "model": _arguments(self.sizes),
            "batch_size": str(self.batch_size),
            "replicas": f"N = {self.replicas}, b = {self.backups}, {self.ps} ps",
            "length": length,
            "optimizer": f"{self.optimizer} {_arguments(self.options)}".strip(),
            "learning_rate": f"{self.learning_rate:g}{times}, {self.decay}",
            "ema": "none" if self.ema is None else f"{self.ema:g}, evaluated",
            "clip": _clip(self.clip, self.clip_async),
        }
        return [(name, value, self.sources.get(name, "")) for name, value in rows.items() if value]


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _clip(clip: float | None, clip_async: float | None) -> str:
    words = "none" if clip is None else f"global norm {clip:g}"
    return words if clip_async is None else f"{words}; asynchronous: global norm {clip_async:g}"
