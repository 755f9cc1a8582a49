"""Trains one of the paper's models, or a small one, with synchronous SGD and backup workers.

Without TF_CONFIG, it starts its own cluster on this machine: N + b worker processes and the
parameter servers. With TF_CONFIG, the same command is one task of a job: the chief trains, and the
others serve it until it tells them that training is done, or until they get SIGTERM.

A recipe is a set of settings. `small` trains on two cores in a few minutes; `paper` has the paper's
settings, for a cluster. Flags override the settings of a recipe. --list_recipes prints all recipes.

Examples:

  python scripts/train.py                             # digits, N = 3, b = 1, one ps
  python scripts/train.py --delay=3:0.5               # worker 3 is slow: nobody waits for it
  python scripts/train.py --delay=3:0.5 --replicas=4 --backups=0    # everybody waits for it
  python scripts/train.py --strategy=ps_async --learning_rate=0.01    # the asynchronous baseline
  python scripts/train.py --strategy=one_device       # the plain optimizer, as a baseline
  python scripts/train.py --model=char_lstm --log_dir=runs/text     # again: goes on from there
  python scripts/train.py --model=mnist_cnn --data_dir=$HOME/tensorflow_datasets --download
  python scripts/train.py --model=inception_v3 --recipe=paper --show_recipe

Exit codes: 0 if training is done; 2 if flags, data or TF_CONFIG are wrong, or another chief has the
parameter servers (in a pod: 138), so that a retry would fail, too; 138 if the cluster (in a worker
or ps: the chief) is lost more often than --restarts allow, so that the same command resumes from
the last checkpoint, if it has a --log_dir; 143 after SIGTERM; 1 otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from scripts import early  # noqa: F401, I001

from absl import app, flags

import tf_backup
from scripts import console, exits, flag_values
from scripts.training import memory, presets, training_flags, worker_networks
from scripts.training.restarts import Restarts, is_restart
from scripts.training.settings import Settings
from scripts.training.outcome import contributions_of, report, summary
from scripts.training.training_flags import TrainingFlags
from tf_backup import quiet
from tf_backup.records import Contributions

log = logging.getLogger("train")

flags.adopt_module_key_flags(training_flags)  # So that --help lists them.


class Training:
    """Training run.

    Args:
      settings: its settings.

    Raises:
      ValueError: if the model, the data and the contents of --log_dir do not fit each other.
      FileNotFoundError: if the data is missing.
    """

    def __init__(self, settings: Settings) -> None:
        from models.data import loading
        from scripts.training import resumable
        from scripts.training.plans import Plan
        from scripts.training.tasks import Task

        self.settings, self.given, recipe = settings, settings.given, settings.recipe
        self.data = loading.load(
            recipe.dataset,
            self.given.data_dir,
            download=self.given.download,
            on_corrupt=self.given.on_corrupt,
            **recipe.data,
        )
        self.task = Task(self.given.model, self.data, recipe.sizes)
        self.task.check()
        replicas, examples = settings.policy.replicas, self.data.examples
        per_epoch = self.given.updates_per_epoch
        self.plan = Plan.make(self.given.model, recipe, replicas, examples, per_epoch)
        if self.given.log_dir:
            _lock(self.given.log_dir, settings.in_job)
            resumable.claim(self.given.log_dir, self.plan)
        self.monitor = self._monitor()
        self.watchers = self._watchers()

    @property
    def is_complete(self) -> bool:
        """Whether this is the chief of a job with nothing left to do."""
        from scripts.training import resumable

        log_dir = self.given.log_dir
        return bool(self.settings.in_job and log_dir and resumable.is_complete(log_dir, self.plan))

    def run(self) -> tuple[dict[str, Any], Contributions]:
        """Train, and return what `--summary_json` writes, and the accounts.

        Raises:
          KeyboardInterrupt: if told to end; the current state has then been saved.
        """
        import keras

        from scripts.training.resumable import Run

        keras.utils.set_random_seed(self.given.seed)
        model = self._model()
        every_s, bar = self.given.checkpoint_minutes * 60, sys.stdout.isatty()
        log_dir = self.given.log_dir
        run = Run(model, self.plan, log_dir, bar, every_s, self.watchers, self.monitor)
        log.info(
            "Training %s on %s: %d updates of %d x %d examples.",
            model.name,
            self.data.name,
            self.plan.updates,
            self.settings.policy.replicas,
            self.plan.recipe.batch_size,
        )
        try:
            run.train(self._batches, self._held_out())
        except KeyboardInterrupt:
            run.save()
            raise
        made = self.plan.updates - run.start
        contributions = contributions_of(model.optimizer, made)
        return summary(self.settings, self.plan.updates, made, run, contributions), contributions

    def _model(self) -> Any:
        """Return the compiled model, on the cluster if there is one."""
        policy = self.settings.policy
        if not self.settings.distributed:
            return self.task.compile(self.plan.optimizer())
        strategy = tf_backup.parameter_server_strategy(
            policy.workers, self.settings.recipe.ps, **self.settings.of_strategy
        )
        with strategy.scope():
            optimizer = tf_backup.wrap(
                self.plan.optimizer(self.settings.asynchronous),
                replicas=policy.replicas,
                backups=policy.backups,
                max_staleness=policy.max_staleness,
                record_times=self.given.record_times,
                on_shortage=self.given.on_shortage or "wait",
            )
            return self.task.compile(optimizer)

    def _monitor(self) -> Any:
        """Return what records who is slow; None without a cluster, or if it is turned off."""
        if not (self.settings.distributed and self.given.record_times):
            return None
        size = self.plan.recipe.batch_size
        return tf_backup.StragglerMonitor(self.given.log_dir, every_s=10.0, batch_size=size)

    def _watchers(self) -> list[Any]:
        """Return the callbacks that tell others about this training run, if flags ask for any."""
        watchers: list[Any] = []
        if self.given.metrics_port is not None:
            from scripts.training.metrics import Metrics

            watchers.append(Metrics(self.given.metrics_port, self.monitor))
        if self.given.update_log:
            from scripts.training.update_log import UpdateLog

            watchers.append(UpdateLog(self.given.update_log))
        return watchers

    def _batches(self, start: int) -> Any:
        """Return the training data after `start` updates, in another order for each start."""
        size, seed = self.plan.recipe.batch_size, self.given.seed + start
        if not self.settings.distributed:
            return self.task.batches(size, seed)

        def of_worker(context: Any) -> Any:
            index = context.input_pipeline_id
            batches = self.task.batches(size, seed, context.num_input_pipelines, index)
            return tf_backup.delay(batches, self.settings.delays[index])

        return of_worker

    def _held_out(self) -> Any:
        """Return the validation data."""
        size = self.plan.recipe.held_out_batch_size
        if not self.settings.distributed:
            return self.task.held_out(size)

        def of_worker(context: Any) -> Any:
            shards, index = context.num_input_pipelines, context.input_pipeline_id
            return self.task.held_out(size, None, shards, index)

        return of_worker


def show(model: str, recipe: str) -> None:
    """Print the settings of a recipe."""
    found = presets.find(model, recipe)
    print(f"--model={model} --recipe={recipe}")
    for name, value, source in found.describe():
        print(f"  {name:<14} {value}" + (f"\n  {'':<14}   [{source}]" if source else ""))


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if len(argv) > 1:
        exits.end(f"train.py takes flags only, not {argv[1]!r}; see --help.", exits.WRONG)
    console.set_up()
    given = flag_values.read(TrainingFlags)
    go_on = " The same command goes on from here." if given.log_dir else ""
    with exits.reporting_errors(go_on, again=_again(given.log_dir, given.restarts)):
        exits.at_signals()  # Before TensorFlow's import: process 1 of a pod would ignore SIGTERM.
        if given.list_recipes:
            print(presets.overview())
            return
        if given.show_recipe:
            show(given.model, given.recipe)
            return
        settings = Settings.of(given)
        _begin(settings)
        with exits.preparing():
            training = Training(settings)
        if training.is_complete:  # By a chief that ended before it could dismiss the others.
            log.info("All %d updates have been made.", training.plan.updates)
            _dismiss()
            return
        with worker_networks.forwarded(given.cuttable_network):
            result, contributions = training.run()
        report(result, contributions)
        if given.summary_json:
            with open(given.summary_json, "w") as file:
                json.dump(result, file, indent=2)
                file.write("\n")
        if settings.in_job:
            _dismiss()


def _dismiss() -> None:
    """End the other tasks of a job; ignore SIGTERM, since a new chief would not find them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tf_backup.dismiss()
    quiet.silence_stderr()


def _again(log_dir: str | None, restarts: int) -> Callable[[BaseException, str], None] | None:
    """Return what starts again from the last checkpoint after the cluster was lost."""
    if not log_dir:
        return None

    def again(error: BaseException, message: str) -> None:
        from scripts.training import resumable

        if isinstance(error, tf_backup.AnotherChief):  # The pod's job tries again, and waits.
            return
        with contextlib.suppress(OSError):
            steps = resumable.checkpoints_of(log_dir).steps()
            Restarts(restarts).restart(message, steps[-1] if steps else 0)

    return again


def _lock(log_dir: str, in_job: bool) -> None:
    """Keep other chiefs out of --log_dir."""
    from scripts.training.directory_lock import DirectoryInUse, DirectoryLock

    os.makedirs(log_dir, exist_ok=True)
    try:
        lock = DirectoryLock(log_dir, lambda: os._exit(exits.LOST))
    except DirectoryInUse as error:
        if in_job:  # The chief before this one may still be saving.
            exits.end(f"train.py: {error}", exits.LOST)
        raise
    atexit.register(lock.release)


def _begin(settings: Settings) -> None:
    """Serve to the end in a worker or ps task of a job; elsewhere, check that all fits."""
    from tf_backup.cluster import tf_config

    if not settings.distributed:
        return
    if not settings.in_job:
        workers, ps = settings.policy.workers, settings.recipe.ps
        if not is_restart():  # Its processes before may still be ending.
            memory.check(workers, ps, memory.available_gib())
    else:
        config = tf_config.from_tf_config()
        if not config.is_chief:
            os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # Or TensorFlow imports Keras 3.
            from tf_backup.cluster import server

            # 0 tells a Job not to start this task again, which is right only if training is done.
            server.serve(
                signal_exit_code=exits.TERMINATED,
                lost_exit_code=exits.LOST,
                chief_timeout_s=settings.given.chief_timeout_s or server.CHIEF_TIMEOUT_S,
            )
        policy, workers = settings.policy, len(config.addresses["worker"])
        policy.check_cluster(workers)
        if policy.workers < workers:
            log.info(
                "replicas (%d) + backups (%d) is less than the workers in the cluster (%d): %d of "
                "them will be spare, and work when others are lost.",
                policy.replicas,
                policy.backups,
                workers,
                workers - policy.workers,
            )


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
