"""Flags of scripts/train.py, and their meaning together."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from absl import flags

from scripts.training import presets
from scripts.training.recipe import Recipe
from tf_backup.policy import BackupPolicy
from tf_backup.testing import Delay, seconds_by_worker

FLAGS = flags.FLAGS

flags.DEFINE_enum(
    "strategy",
    "ps",
    ["ps", "ps_async", "one_device", "multi_worker_mirrored"],
    "ps: synchronous SGD with backup workers on parameter servers, on a local cluster or, with "
    "TF_CONFIG, as this task of a job. ps_async: the same cluster of N + b workers, but every "
    "gradient is an update of its own, however old. one_device: the plain optimizer in this "
    "process. multi_worker_mirrored: refused, Keras 3 cannot.",
)
flags.DEFINE_string("model", "small_cnn", f"Model to train: {', '.join(presets.MODELS)}.")
flags.DEFINE_string("recipe", "small", f"Settings: {' or '.join(presets.RECIPES)}.")
flags.DEFINE_bool("show_recipe", False, "Print what the recipe sets, and end.")
flags.DEFINE_string("dataset", None, "Data to train on; default: the recipe's.")
flags.DEFINE_string(
    "data_dir",
    None,
    "Where tensorflow-datasets keeps its data; default: ~/tensorflow_datasets. Not needed for "
    "digits and topics.",
)
flags.DEFINE_bool("download", False, "Download and prepare the data, if it is not there.")
flags.DEFINE_enum(
    "on_corrupt", "fail", ["fail", "skip"], "What to do with a record that cannot be decoded."
)
flags.DEFINE_integer("replicas", None, "N: gradients averaged in one update.")
flags.DEFINE_integer("backups", None, "b: workers beyond N that nobody waits for.")
flags.DEFINE_integer(
    "max_staleness",
    None,
    "Use gradients that are up to so many updates old. Default: 0 with ps, no bound with ps_async.",
)
flags.DEFINE_integer("ps_tasks", None, "Parameter servers of the local cluster.")
flags.DEFINE_integer("batch_size", None, "Examples in one worker's batch.")
flags.DEFINE_float("epochs", None, "Passes over the data; an update uses N batches.")
flags.DEFINE_integer("updates", None, "Updates to make, instead of --epochs.")
flags.DEFINE_integer("updates_per_epoch", None, "Updates between validations; default: a pass.")
flags.DEFINE_float("learning_rate", None, "Learning rate at first; taken as it is, not times N.")
flags.DEFINE_float("ema", None, "Decay of the average of the weights that is evaluated; 0: none.")
flags.DEFINE_integer("seed", 0, "Of initial weights, shuffles and dropout.")
flags.DEFINE_string(  # Replaces absl's flag of this name, which does nothing here.
    "log_dir",
    None,
    "Where to write checkpoints and logs for TensorBoard; a training that was interrupted goes on "
    "from there.",
    allow_override=True,
)
flags.DEFINE_float(
    "checkpoint_minutes", 10.0, "Minutes between checkpoints in the middle of an epoch."
)
flags.DEFINE_integer(
    "restarts",
    3,
    "With --log_dir: how often to start again from the last checkpoint when the cluster is lost, "
    "without a new checkpoint in between. 0: never.",
)
flags.DEFINE_float(
    "worker_timeout_s",
    None,
    "Seconds that a worker may be silent before it is given up; it may come back. Default: 30.",
)
flags.DEFINE_float(
    "server_timeout_s",
    None,
    "Seconds that a parameter server may be silent before it counts as lost. Default: 30.",
)
flags.DEFINE_integer(
    "worker_restarts",
    None,
    "How often each worker of the local cluster is started again when it ends. Default: 3.",
)
flags.DEFINE_multi_string(
    "delay", [], "WORKER:SECONDS, a straggler on purpose; may be given several times."
)
flags.DEFINE_enum(
    "on_shortage",
    None,
    ["wait", "shrink", "fill"],
    "While fewer than N workers are alive: wait for them, make updates of fewer gradients, or fill "
    "updates up with more gradients of the workers that are there. Default: wait.",
)
flags.DEFINE_bool(
    "record_times",
    True,
    "Record when each gradient arrives, under --log_dir: see scripts/report.py and TensorBoard.",
)
flags.DEFINE_integer(
    "metrics_port", None, "Serve numbers for Prometheus at this port of the chief."
)
flags.DEFINE_string(
    "update_log",
    None,
    "File to append a JSON line to at each start, update and validation, for a process that "
    "watches; see scripts/training/update_log.py.",
)
flags.DEFINE_string("summary_json", None, "Where to write what happened, as one JSON object.")

_ABOVE_0 = [
    "ps_tasks",
    "batch_size",
    "epochs",
    "updates",
    "updates_per_epoch",
    "learning_rate",
    "replicas",
]
_AT_LEAST_0 = (
    "backups",
    "max_staleness",
    "seed",
    "checkpoint_minutes",
    "restarts",
    "worker_restarts",
)
_OF_STRATEGY = ("worker_timeout_s", "server_timeout_s", "worker_restarts")
_OF_CLUSTERS = (
    *("replicas", "backups", "max_staleness", "ps_tasks", "delay", "on_shortage"),
    *_OF_STRATEGY,
)


class Settings:
    """Settings from the flags, which are checked before anything is started.

    Raises:
      ValueError: if a flag is wrong; says the flag, its value, the rule and the remedy.
    """

    def __init__(self) -> None:
        _check_numbers()
        _check_strategy()
        _check_summary()
        if FLAGS.epochs is not None and FLAGS.updates is not None:
            raise ValueError("--epochs and --updates both say how long to train; give one.")
        recipe = presets.find(FLAGS.model, FLAGS.recipe)
        self.distributed = FLAGS.strategy != "one_device"
        self.asynchronous = FLAGS.strategy == "ps_async"
        self.policy = self._policy(recipe)
        self.recipe = self._overridden(recipe)
        delays = [Delay.parse(text) for text in FLAGS.delay]
        self.delays = seconds_by_worker(delays, self.policy.workers)

    @property
    def in_job(self) -> bool:
        """Whether this process is a task of a job, which TF_CONFIG describes."""
        from tf_backup.cluster import tf_config

        return self.distributed and tf_config.has_tf_config()

    @property
    def of_strategy(self) -> dict[str, Any]:
        """Optional arguments of `tf_backup.parameter_server_strategy` that flags set."""
        given = {name: FLAGS[name].value for name in _OF_STRATEGY}
        return {name: value for name, value in given.items() if value is not None}

    def _policy(self, recipe: Recipe) -> BackupPolicy:
        replicas = recipe.replicas if FLAGS.replicas is None else FLAGS.replicas
        backups = recipe.backups if FLAGS.backups is None else FLAGS.backups
        if not self.distributed:
            return BackupPolicy(1, 0)
        if self.asynchronous:
            return BackupPolicy.asynchronous(replicas + backups, FLAGS.max_staleness)
        least = 1 if FLAGS.on_shortage == "shrink" else None
        fill = FLAGS.on_shortage == "fill"
        return BackupPolicy(replicas, backups, FLAGS.max_staleness or 0, least, fill=fill)

    def _overridden(self, recipe: Recipe) -> Recipe:
        """Return the recipe as changed by flags."""
        changes: dict[str, Any] = {}
        for field, flag in (("dataset", "dataset"), ("ps", "ps_tasks"), ("batch_size",) * 2):
            if FLAGS[flag].value is not None:
                changes[field] = FLAGS[flag].value
        if changes.get("dataset", recipe.dataset) != recipe.dataset:
            changes["data"] = {k: v for k, v in recipe.data.items() if k != "image_size"}
        if FLAGS.learning_rate is not None:
            changes.update(learning_rate=FLAGS.learning_rate, per_replica=False)
        if FLAGS.ema is not None:
            if not 0 <= FLAGS.ema < 1:
                raise ValueError(f"--ema is {FLAGS.ema}; it must be 0 or above, and below 1.")
            changes["ema"] = FLAGS.ema or None
        if FLAGS.epochs is not None:
            changes.update(passes=FLAGS.epochs, updates=None)
        if FLAGS.updates is not None:  # The same number for every N.
            changes.update(updates=FLAGS.updates, replicas=self.policy.replicas)
        return dataclasses.replace(recipe, **changes)


def _check_numbers() -> None:
    for name in (*_ABOVE_0, *_AT_LEAST_0):
        value = FLAGS[name].value
        if value is None:
            continue
        least = 1 if isinstance(value, int) and name in _ABOVE_0 else 0
        if not least <= value < math.inf or (name in _ABOVE_0 and value == 0):
            rule = f"at least {least}" if least or name in _AT_LEAST_0 else "above 0"
            raise ValueError(f"--{name} is {value}; it must be {rule} and finite.")


def _check_summary() -> None:
    if not FLAGS.summary_json:
        return
    directory = os.path.dirname(FLAGS.summary_json) or "."
    if not os.path.isdir(directory):
        raise ValueError(
            f"--summary_json is {FLAGS.summary_json}, which is written when training is done, but "
            f"there is no directory {directory}. Make it first."
        )
    if not os.access(directory, os.W_OK):
        raise ValueError(
            f"--summary_json is {FLAGS.summary_json}, which is written when training is done, but "
            f"{directory} cannot be written. Name another directory."
        )


def _check_strategy() -> None:
    if FLAGS.strategy == "multi_worker_mirrored":
        raise ValueError(
            "--strategy is multi_worker_mirrored, but Keras 3 (3.12 to 3.15) cannot train under "
            "tf.distribute.MultiWorkerMirroredStrategy: Model.fit ends in `ValueError: Attempt to "
            "convert a value (PerReplica...)`, since it reduces a structure of batches, and later "
            "scalar metrics, in ways that collective strategies cannot. --strategy=ps --backups=0 "
            "is synchronous training with all workers."
        )
    if FLAGS.strategy == "one_device":
        given = [name for name in _OF_CLUSTERS if FLAGS[name].value not in (None, [])]
        if given:
            raise ValueError(
                f"--{given[0]} is {FLAGS[given[0]].value}, but --strategy=one_device has no "
                "workers. Leave it out, or take --strategy=ps."
            )
