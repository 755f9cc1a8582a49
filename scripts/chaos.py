"""Injects faults into a training run on a local cluster, and shows that training goes on.

It trains a real model with scripts/train.py on a local cluster of N + b workers and the parameter
servers, in processes of this machine. Meanwhile it kills, restarts, freezes and slows down tasks.
Then it trains again without faults, and compares.

Faults:

  --fault="kill worker 1 at step 50"                        SIGKILL
  --fault="restart ps 0 at 20 s"                            SIGTERM
  --fault="freeze worker 0 for 5 s at 10 s"                 SIGSTOP, then SIGCONT
  --fault="slow worker 2 by 4 from step 20 to step 60"      stopped for 3/4 of every 0.2 s
  --fault="cut worker 1 for 20 s at 10 s"                   its network loses all packets

A task is "worker I", "ps I" or "chief". A moment is "step T", after T updates, or "S s", after S
seconds of training. These begin with the first update, and stand still while training is being
started again. A fault waits until its task runs, and until training has made an update since its
last start.

The cluster starts a worker again that has ended. If a parameter server or the chief ends, training
starts again from its last checkpoint, which needs --log_dir.

Examples:

  python scripts/chaos.py --fault="kill worker 1 at step 50" --csv=faults.csv
  python scripts/chaos.py --random_faults=40 --mean_seconds_between_faults=5 --seed=1
  python scripts/chaos.py --fault="kill chief at step 90" --log_dir=/tmp/chaos
  python scripts/chaos.py --backups=0 --on_shortage=fill --fault="freeze worker 1 for 20 s at 10 s"

Exit codes: 0 if training went on after every fault, the accounts of gradients add up, no pause was
longer than allowed, and speed and result are near those without faults; 2 if flags are wrong; 1
otherwise, with a sentence for each failure.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from scripts import early  # noqa: F401, I001

from absl import app, flags

from scripts import console, exits, flag_values
from scripts.benchmarks.environment import Environment
from scripts.benchmarks.markdown import markdown
from scripts.faults import faulted_run, scenario
from scripts.faults.chaos_settings import ChaosSettings
from scripts.faults.fault import ACTIONS, JOBS, RANDOM_ACTIONS, Fault
from scripts.faults.fault_progress import FaultProgress
from scripts.faults.fault_results import Results
from scripts.faults.faulted_run import Outcome
from scripts.faults.training_process import TrainingProcess

flags.DEFINE_multi_string("fault", [], "A fault, as above; may be given several times.")
flags.DEFINE_integer("random_faults", 0, "Number of random faults.", lower_bound=0)
flags.DEFINE_float("mean_seconds_between_faults", 5.0, "Mean time between random faults.")
flags.DEFINE_list(
    "random_actions",
    list(RANDOM_ACTIONS),
    f"Actions of random faults: some of {','.join(ACTIONS)}.",
)
flags.DEFINE_list("random_jobs", ["worker"], f"Tasks of random faults: some of {','.join(JOBS)}.")
flags.DEFINE_integer(
    "seed", 0, "Seed of random faults, initial weights and shuffles.", lower_bound=0
)
flags.DEFINE_enum(
    "model", "small_cnn", ["small_cnn", "char_lstm", "word_lstm"], "Model; its data is built in."
)
flags.DEFINE_integer("replicas", 3, "N: gradients averaged in one update.", lower_bound=1)
flags.DEFINE_integer("backups", 2, "b: workers beyond N that nobody waits for.", lower_bound=0)
flags.DEFINE_integer("ps_tasks", 1, "Number of parameter servers.", lower_bound=1)
flags.DEFINE_enum(
    "on_shortage",
    None,
    ["wait", "shrink", "fill"],
    "What train.py does while fewer than N workers are alive; see its --help. Default: wait.",
)
flags.DEFINE_integer(
    "updates", None, "Updates to make; default: enough for all faults.", lower_bound=1
)
flags.DEFINE_float(
    "step_s",
    0.1,
    "Delay of each worker's batches, which leaves the cores of this machine to the recovery.",
)
flags.DEFINE_string(  # Replaces absl's flag of this name, which does nothing here.
    "log_dir",
    None,
    "Directory to create for checkpoints and logs, which faults of the chief or a ps need.",
    allow_override=True,
)
flags.DEFINE_float("checkpoint_s", 10.0, "Seconds between two checkpoints.")
flags.DEFINE_float("worker_timeout_s", 5.0, "Seconds of silence after which a worker is given up.")
flags.DEFINE_float("server_timeout_s", 10.0, "Seconds of silence after which a ps counts as lost.")
flags.DEFINE_float(
    "max_pause_s",
    None,
    "Longest time between two updates; twice that is allowed with a validation in between. "
    "Default: --worker_timeout_s plus 3 s for a step. While the chief or a ps is frozen, this time "
    "stands still.",
)
flags.DEFINE_float(
    "max_restart_s", 120.0, "The same, where training starts again from a checkpoint in between."
)
flags.DEFINE_float(
    "min_speed",
    None,
    "Minimum updates per second, relative to those without faults. Default: 0.7 with random faults "
    "of workers, of which at most b are disturbed at a time; otherwise 0.",
)
flags.DEFINE_float(
    "tolerance",
    0.02,
    "How much worse than without faults the result may be: how much lower an accuracy, or how much "
    "higher a loss, as a part of it.",
)
flags.DEFINE_bool("baseline", True, "Train again without faults, and compare.")
flags.DEFINE_string("csv", None, "File to write the results to.")

_NAME = "chaos.py"


@contextlib.contextmanager
def folder(log_dir: str | None) -> Iterator[str]:
    """Yield --log_dir, which is created, or a temporary directory.

    Raises:
      ValueError: if --log_dir has files already.
    """
    if log_dir is None:
        with tempfile.TemporaryDirectory(prefix="chaos_") as path:
            yield path
        return
    os.makedirs(log_dir, exist_ok=True)
    if os.listdir(log_dir):
        raise ValueError(
            f"--log_dir is {log_dir}, which has files. Name a directory that is empty or is "
            "not there: the training run must begin from the start."
        )
    yield log_dir


def train(
    settings: ChaosSettings, name: str, updates: int, faults: Sequence[Fault], parent: str
) -> Outcome:
    """Train in a subdirectory of `parent`."""
    path = os.path.join(parent, name)
    os.makedirs(path)
    logs = os.path.join(path, "logs") if settings.log_dir else None
    progress = FaultProgress(name, updates, len(faults))
    try:
        training = TrainingProcess(settings.training_flags(updates, logs), path)
        return faulted_run.run(training, faults, 2 * settings.max_restart_s, progress)
    finally:
        progress.end()


def show(settings: ChaosSettings, results: Results) -> None:
    """Print the tables, and write the CSV file that the settings ask for."""
    parts = [markdown(*results.faults), markdown(*results.speeds), results.accounts]
    print("\n\n".join(filter(None, parts)))
    if settings.csv:
        columns = {name: getattr(settings, name) for name in ("model", "replicas", "backups")}
        columns |= {"ps": settings.ps_tasks, "step_s": settings.step_s, "seed": settings.seed}
        columns["command"] = shlex.join(["python", *sys.argv])
        results.write(settings.csv, columns, vars(Environment.here(intra_op_threads=1)))


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if len(argv) > 1:
        exits.end(f"{_NAME} takes flags only, not {argv[1]!r}; see --help.", exits.WRONG)
    console.set_up()
    with exits.reporting_errors("", _NAME), contextlib.ExitStack() as stack:
        exits.at_signals()
        settings = flag_values.read(ChaosSettings)
        faults = settings.planned()
        updates = settings.updates_for(faults)
        resumable = bool(settings.log_dir)
        scenario.Limits(settings.workers, settings.ps_tasks, updates, resumable).check(faults)
        with exits.preparing(_NAME):
            parent = stack.enter_context(folder(settings.log_dir))
            if settings.csv:
                with open(settings.csv, "a", encoding="utf-8"):
                    pass
        faulted = train(settings, "faults", updates, faults, parent)
        baseline = train(settings, "baseline", updates, [], parent) if settings.baseline else None
        results = Results(faulted, baseline, settings.judge)
        show(settings, results)
    if results.failures:
        exits.end("\nFailed:\n" + "\n".join(results.failures), exits.FAILED)


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
