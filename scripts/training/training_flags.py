"""Flags of scripts/train.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags

from scripts.training import presets

flags.DEFINE_enum(
    "strategy",
    "ps",
    ["ps", "ps_async", "one_device", "multi_worker_mirrored"],
    "ps: synchronous SGD with backup workers on parameter servers, on a local cluster or, with "
    "TF_CONFIG, as this task of a job. ps_async: the same cluster of N + b workers, but every "
    "gradient is an update of its own, however old. one_device: the plain optimizer in this "
    "process. multi_worker_mirrored: refused, because Keras 3 does not support it.",
)
flags.DEFINE_string("model", "small_cnn", f"Model to train: {', '.join(presets.MODELS)}.")
flags.DEFINE_string("recipe", "small", f"Settings: {' or '.join(presets.RECIPES)}.")
flags.DEFINE_bool("show_recipe", False, "Print what the recipe sets, and end.")
flags.DEFINE_bool("list_recipes", False, "Print what the recipes of all models set, and end.")
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
    "Use gradients up to this many updates old. Default: 0 with ps, no bound with ps_async.",
)
flags.DEFINE_integer("ps_tasks", None, "Parameter servers of the local cluster.")
flags.DEFINE_integer("batch_size", None, "Examples in one worker's batch.")
flags.DEFINE_float("epochs", None, "Passes over the data; an update uses N batches.")
flags.DEFINE_integer("updates", None, "Updates to make, instead of --epochs.")
flags.DEFINE_integer("updates_per_epoch", None, "Updates between validations; default: a pass.")
flags.DEFINE_float("learning_rate", None, "Initial learning rate; not multiplied by N.")
flags.DEFINE_float("ema", None, "Decay of the average of the weights that is evaluated; 0: none.")
flags.DEFINE_integer("seed", 0, "Seed of initial weights, shuffles and dropout.")
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
flags.DEFINE_float(
    "start_timeout_s",
    None,
    "Seconds that the local cluster may take to start (default: 120), or that the chief of a job "
    "waits for the parameter servers (default: 1800).",
)
flags.DEFINE_float(
    "chief_timeout_s",
    None,
    "Seconds that a worker or ps of a job serves without a chief. Default: 3600.",
)
flags.DEFINE_integer(
    "worker_restarts",
    None,
    "How often each worker of the local cluster is started again when it ends. Default: 3.",
)
flags.DEFINE_multi_string(
    "delay", [], "WORKER:SECONDS, a straggler on purpose; may be given several times."
)
flags.DEFINE_bool(
    "cuttable_network",
    False,
    "Let each worker of the local cluster reach the parameter servers through a process of its own "
    "(scripts/training/forwarder.py). Stopping that process cuts the network, as chaos.py does.",
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


@dataclasses.dataclass(frozen=True)
class TrainingFlags:
    """Values of the flags, by their names; None if a flag without a default is not given."""

    strategy: str
    model: str
    recipe: str
    show_recipe: bool
    list_recipes: bool
    dataset: str | None
    data_dir: str | None
    download: bool
    on_corrupt: str
    replicas: int | None
    backups: int | None
    max_staleness: int | None
    ps_tasks: int | None
    batch_size: int | None
    epochs: float | None
    updates: int | None
    updates_per_epoch: int | None
    learning_rate: float | None
    ema: float | None
    seed: int
    log_dir: str | None
    checkpoint_minutes: float
    restarts: int
    worker_timeout_s: float | None
    server_timeout_s: float | None
    start_timeout_s: float | None
    chief_timeout_s: float | None
    worker_restarts: int | None
    delay: Sequence[str]
    cuttable_network: bool
    on_shortage: str | None
    record_times: bool
    metrics_port: int | None
    update_log: str | None
    summary_json: str | None
