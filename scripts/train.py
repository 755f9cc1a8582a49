"""Trains a model with synchronous SGD and backup workers.

Without TF_CONFIG it starts a cluster of its own on this machine: N + b worker processes and
parameter servers. With TF_CONFIG the same command is one task of a job: the chief trains, the
others serve it until they get SIGTERM.

Examples:

  python scripts/train.py                             # digits, N = 3, b = 1, one ps
  python scripts/train.py --delay=3:0.5               # worker 3 is slow: nobody waits for it
  python scripts/train.py --delay=3:0.5 --replicas=4 --backups=0    # everybody waits for it
  python scripts/train.py --strategy=one_device       # the plain optimizer, as a baseline
  python scripts/train.py --dataset=mnist --data_dir=$HOME/tensorflow_datasets --epochs=2
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from absl import app, flags

from tf_backup.delays import Delay, seconds_by_worker
from tf_backup.errors import TfBackupError
from tf_backup.policy import BackupPolicy
from tf_backup.records import Contributions, WorkerRecord

FLAGS = flags.FLAGS
MODELS = ("small_cnn",)
DATASETS = ("digits", "mnist")

flags.DEFINE_enum(
    "strategy",
    "ps",
    ["ps", "one_device"],
    "ps: synchronous SGD with backup workers on parameter servers, on a local cluster or, with "
    "TF_CONFIG, as this task of a job. one_device: the plain optimizer in this process.",
)
flags.DEFINE_string("model", "small_cnn", f"Model to train: {', '.join(MODELS)}.")
flags.DEFINE_string("dataset", "digits", f"Data to train on: {', '.join(DATASETS)}.")
flags.DEFINE_string(
    "data_dir", None, "Where tensorflow-datasets keeps its data; not needed for digits."
)
flags.DEFINE_integer("replicas", 3, "N: gradients averaged in one update.")
flags.DEFINE_integer("backups", 1, "b: workers beyond N that nobody waits for.")
flags.DEFINE_integer("ps_tasks", 1, "Parameter servers of the local cluster.")
flags.DEFINE_integer("batch_size", 32, "Examples in one worker's batch.")
flags.DEFINE_integer(
    "epochs", None, "Passes over the data; an update uses N batches. Default: 20 (mnist: 2)."
)
flags.DEFINE_integer("updates", None, "Updates to make, instead of --epochs.")
flags.DEFINE_float(
    "learning_rate",
    0.1,
    "Of SGD with momentum 0.9. The mean of N gradients is less noisy than one: it may grow with N.",
)
flags.DEFINE_integer("seed", 0, "Of initial weights, shuffles and dropout.")
flags.DEFINE_string(  # absl has a flag of this name that does nothing here.
    "log_dir", None, "Where to write logs for TensorBoard.", allow_override=True
)
flags.DEFINE_multi_string(
    "delay", [], "WORKER:SECONDS, a straggler on purpose; may be given several times."
)
flags.DEFINE_string("summary_json", None, "Where to write what happened, as one JSON object.")


log = logging.getLogger("train")

DEFAULT_EPOCHS = {"digits": 20, "mnist": 2}


class Settings:
    """The flags, checked before anything is started.

    Raises:
      ValueError: naming the flag, its value, the rule and the remedy.
    """

    def __init__(self) -> None:
        self.distributed = FLAGS.strategy == "ps"
        self.policy = BackupPolicy(FLAGS.replicas, FLAGS.backups)
        if not self.distributed:
            self.policy = BackupPolicy(1, 0)
        for name, known in (("model", MODELS), ("dataset", DATASETS)):
            if FLAGS[name].value not in known:
                raise ValueError(
                    f"--{name} is {FLAGS[name].value!r}; the known ones are {', '.join(known)}."
                )
        for name in ("ps_tasks", "batch_size", "epochs", "updates"):
            value = FLAGS[name].value
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1.")
        if not FLAGS.learning_rate > 0:
            raise ValueError(f"--learning_rate is {FLAGS.learning_rate}; it must be above 0.")
        if FLAGS.epochs is not None and FLAGS.updates is not None:
            raise ValueError("--epochs and --updates both say how long to train; give one.")
        delays = [Delay.parse(text) for text in FLAGS.delay]
        self.delays = seconds_by_worker(delays, self.policy.workers)

    def length(self, examples: int) -> tuple[int, int]:
        """Returns the number of epochs, and of updates in each, for so many examples."""
        if FLAGS.updates is not None:
            return 1, FLAGS.updates
        per_update = FLAGS.batch_size * self.policy.replicas
        return FLAGS.epochs or DEFAULT_EPOCHS[FLAGS.dataset], math.ceil(examples / per_update)


def build(shape: tuple[int, int, int], classes: int, policy: BackupPolicy | None) -> Any:
    """Returns the compiled model; with a policy, with a wrapped optimizer."""
    import keras

    import tf_backup
    from models import small_cnn

    model = small_cnn.build(shape, classes)
    optimizer = keras.optimizers.SGD(FLAGS.learning_rate, momentum=0.9)
    if policy is not None:
        optimizer = tf_backup.wrap(optimizer, policy.replicas, policy.backups)
    model.compile(optimizer, **small_cnn.compile_arguments())
    return model


def train(settings: Settings) -> dict[str, Any]:
    """Trains as the flags say; returns what `--summary_json` writes."""
    import keras

    import tf_backup
    from models import data as model_data

    keras.utils.set_random_seed(FLAGS.seed)
    data = model_data.load(FLAGS.dataset, FLAGS.data_dir)
    epochs, updates = settings.length(data.examples)
    workers = settings.policy.workers

    def worker_batches(context: Any) -> Any:
        index = context.input_pipeline_id
        batches = data.batches(FLAGS.batch_size, FLAGS.seed, context.num_input_pipelines, index)
        return tf_backup.delay(batches, settings.delays[index])

    if settings.distributed:
        strategy = tf_backup.parameter_server_strategy(workers=workers, ps=FLAGS.ps_tasks)
        with strategy.scope():
            model = build(data.shape, data.classes, settings.policy)
        x: Any = worker_batches
    else:
        model = build(data.shape, data.classes, None)
        x = data.batches(FLAGS.batch_size, FLAGS.seed)
    log.info("Training %s on %s: %d updates.", model.name, FLAGS.dataset, epochs * updates)
    clock = Clock()
    history = model.fit(
        x,
        epochs=epochs,
        steps_per_epoch=updates,
        shuffle=False,  # The data sets shuffle themselves.
        validation_data=data.validation().batch(256),
        callbacks=[clock, *_callbacks()],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    contributions = _contributions(model.optimizer, epochs * updates)
    return summary(settings, epochs * updates, clock.seconds, contributions, history.history)


def _callbacks() -> list[Any]:
    import keras

    return [keras.callbacks.TensorBoard(FLAGS.log_dir)] if FLAGS.log_dir else []


def Clock() -> Any:
    """Returns a callback whose `seconds` is the time that training took, less validation."""
    import keras

    class _Clock(keras.callbacks.Callback):  # type: ignore[misc]
        seconds = 0.0
        _since = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._since = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            now = time.monotonic()
            self.seconds += now - self._since
            self._since = now

    return _Clock()


def _contributions(optimizer: Any, updates: int) -> Contributions:
    """Returns the accounts; of the plain optimizer, those of one worker that is never late."""
    if hasattr(optimizer, "contributions"):
        accounts: Contributions = optimizer.contributions
        return accounts
    return Contributions((WorkerRecord(0, updates, updates, 0, 0, 0, 0),))


def summary(
    settings: Settings,
    updates: int,
    seconds: float,
    contributions: Contributions,
    history: dict[str, list[float]],
) -> dict[str, Any]:
    """Returns what happened, as `--summary_json` writes it."""
    last = {name: float(values[-1]) for name, values in history.items()}
    prefix = "val_"
    return {
        "strategy": FLAGS.strategy,
        "replicas": settings.policy.replicas,
        "backups": settings.policy.backups,
        "updates": updates,
        "seconds": seconds,
        "updates_per_second": updates / seconds,
        "contributions": contributions.total.as_dict(),
        "workers": [record.as_dict() for record in contributions.workers],
        "train": {name: value for name, value in last.items() if not name.startswith(prefix)},
        "validation": {
            name.removeprefix(prefix): value
            for name, value in last.items()
            if name.startswith(prefix)
        },
    }


def report(result: dict[str, Any]) -> None:
    """Prints what happened."""
    validation = result["validation"]
    print(
        f"\n{result['updates']} updates in {result['seconds']:.1f} s "
        f"({result['updates_per_second']:.1f} updates/s)"
    )
    rows = [*result["workers"], {"worker": "all", **result["contributions"]}]
    print("".join(f"{name:>11}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>11}" for value in row.values()))
    print(f"held out: loss {validation['loss']:.4f}, accuracy {validation['accuracy']:.2%}")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        sys.exit(f"train.py takes flags only, not {argv[1]!r}; see --help.")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("tensorflow", "absl", "h5py"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        settings = Settings()
        _serve_if_task(settings)
        result = train(settings)
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
    except (TfBackupError, ValueError, FileNotFoundError) as error:
        log.debug("", exc_info=True)
        sys.exit(f"train.py: {error}")
    report(result)
    if FLAGS.summary_json:
        with open(FLAGS.summary_json, "w") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


def _serve_if_task(settings: Settings) -> None:
    """In a worker or ps task of a job, serves until SIGTERM; elsewhere returns."""
    from tf_backup import cluster, server

    if settings.distributed and cluster.has_tf_config():
        config = cluster.from_tf_config()
        if not config.is_chief:
            server.serve()
        settings.policy.check_cluster(len(config.addresses["worker"]))


if __name__ == "__main__":
    app.run(main)
