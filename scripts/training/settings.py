"""Settings of a training run: what the flags of scripts/train.py mean together."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from scripts.training import presets
from scripts.training.recipe import Recipe
from scripts.training.training_flags import TrainingFlags
from tf_backup.policy import BackupPolicy
from tf_backup.testing import Delay, seconds_by_worker

_ABOVE_0 = [
    "ps_tasks",
    "batch_size",
    "epochs",
    "updates",
    "updates_per_epoch",
    "learning_rate",
    "replicas",
    "start_timeout_s",
    "chief_timeout_s",
]
_AT_LEAST_0 = (
    "backups",
    "max_staleness",
    "seed",
    "checkpoint_minutes",
    "restarts",
    "worker_restarts",
)
_OF_STRATEGY = (
    *("worker_timeout_s", "server_timeout_s", "start_timeout_s", "chief_timeout_s"),
    "worker_restarts",
)
_OF_CLUSTERS = (
    *("replicas", "backups", "max_staleness", "ps_tasks", "delay", "on_shortage"),
    "cuttable_network",
    *_OF_STRATEGY,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a training run, which are checked before anything is started.

    Attributes:
      given: the flags.
      recipe: the recipe as changed by flags.
      policy: N, b and the bound on staleness.
      delays: seconds that each worker waits before a batch.
    """

    given: TrainingFlags
    recipe: Recipe
    policy: BackupPolicy
    delays: Sequence[float]

    @classmethod
    def of(cls, given: TrainingFlags) -> Settings:
        """Return what the flags mean together.

        Raises:
          ValueError: if a flag is wrong; says the flag, its value, the rule and the remedy.
        """
        _check_numbers(given)
        _check_strategy(given)
        _check_summary(given.summary_json)
        if given.epochs is not None and given.updates is not None:
            raise ValueError("--epochs and --updates both say how long to train; give one.")
        recipe = presets.find(given.model, given.recipe)
        policy = _policy(given, recipe)
        recipe = _overridden(given, recipe, policy.replicas)
        delays = [Delay.parse(text) for text in given.delay]
        return cls(given, recipe, policy, seconds_by_worker(delays, policy.workers))

    @property
    def distributed(self) -> bool:
        """Whether there is a cluster."""
        return self.given.strategy != "one_device"

    @property
    def asynchronous(self) -> bool:
        """Whether every gradient is an update of its own."""
        return self.given.strategy == "ps_async"

    @property
    def in_job(self) -> bool:
        """Whether this process is a task of a job, which TF_CONFIG describes."""
        from tf_backup.cluster import tf_config

        return self.distributed and tf_config.has_tf_config()

    @property
    def of_strategy(self) -> dict[str, Any]:
        """Optional arguments of `tf_backup.parameter_server_strategy` that flags set."""
        given = {name: getattr(self.given, name) for name in _OF_STRATEGY}
        return {name: value for name, value in given.items() if value is not None}


def _policy(given: TrainingFlags, recipe: Recipe) -> BackupPolicy:
    replicas = recipe.replicas if given.replicas is None else given.replicas
    backups = recipe.backups if given.backups is None else given.backups
    if given.strategy == "one_device":
        return BackupPolicy(1, 0)
    if given.strategy == "ps_async":
        return BackupPolicy.asynchronous(replicas + backups, given.max_staleness)
    least = 1 if given.on_shortage == "shrink" else None
    fill = given.on_shortage == "fill"
    return BackupPolicy(replicas, backups, given.max_staleness or 0, least, fill=fill)


def _overridden(given: TrainingFlags, recipe: Recipe, replicas: int) -> Recipe:
    """Return the recipe as changed by flags, for updates of `replicas` gradients."""
    flags = {"dataset": given.dataset, "ps": given.ps_tasks, "batch_size": given.batch_size}
    changes: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if changes.get("dataset", recipe.dataset) != recipe.dataset:
        changes["data"] = {k: v for k, v in recipe.data.items() if k != "image_size"}
    if given.learning_rate is not None:
        changes.update(learning_rate=given.learning_rate, per_replica=False)
    if given.ema is not None:
        if not 0 <= given.ema < 1:
            raise ValueError(f"--ema is {given.ema}; it must be 0 or above, and below 1.")
        changes["ema"] = given.ema or None
    if given.epochs is not None:
        changes.update(passes=given.epochs, updates=None)
    if given.updates is not None:  # The same number for every N.
        changes.update(updates=given.updates, replicas=replicas)
    return dataclasses.replace(recipe, **changes)


def _check_numbers(given: TrainingFlags) -> None:
    for name in (*_ABOVE_0, *_AT_LEAST_0):
        value = getattr(given, name)
        if value is None:
            continue
        least = 1 if isinstance(value, int) and name in _ABOVE_0 else 0
        if not least <= value < math.inf or (name in _ABOVE_0 and value == 0):
            rule = f"at least {least}" if least or name in _AT_LEAST_0 else "above 0"
            raise ValueError(f"--{name} is {value}; it must be {rule} and finite.")


def _check_summary(path: str | None) -> None:
    if not path:
        return
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise ValueError(
            f"--summary_json is {path}, which is written when training is done, but "
            f"there is no directory {directory}. Make it first."
        )
    if not os.access(directory, os.W_OK):
        raise ValueError(
            f"--summary_json is {path}, which is written when training is done, but "
            f"{directory} cannot be written. Name another directory."
        )


def _check_strategy(given: TrainingFlags) -> None:
    from tf_backup.cluster import tf_config

    if given.cuttable_network and tf_config.has_tf_config():
        raise ValueError(
            "--cuttable_network is for a local cluster, but this process is a task of a job, by "
            "TF_CONFIG or as a pod. Leave the flag out."
        )
    if given.strategy == "multi_worker_mirrored":
        raise ValueError(
            "--strategy is multi_worker_mirrored, but Keras 3 (3.12 to 3.15) cannot train under "
            "tf.distribute.MultiWorkerMirroredStrategy: Model.fit ends in `ValueError: Attempt to "
            "convert a value (PerReplica...)`, since it reduces a structure of batches, and later "
            "scalar metrics, in ways that collective strategies cannot. --strategy=ps --backups=0 "
            "is synchronous training with all workers."
        )
    if given.strategy == "one_device":
        values = {name: getattr(given, name) for name in _OF_CLUSTERS}
        wrong = [name for name, value in values.items() if value not in (None, [], False)]
        if wrong:
            raise ValueError(
                f"--{wrong[0]} is {values[wrong[0]]}, but --strategy=one_device has no "
                "workers. Leave it out, or take --strategy=ps."
            )
