"""Injects faults into a training run on a local cluster, and shows that training goes on.

It trains a real model with scripts/train.py on a local cluster of N + b workers and the parameter
servers, in processes of this machine. Meanwhile it kills, restarts, freezes and slows down tasks.
Then it trains again without faults, and compares.

Faults:

  --fault="kill worker 1 at step 50"                        SIGKILL
  --fault="restart ps 0 at 20 s"                            SIGTERM
  --fault="freeze worker 0 for 5 s at 10 s"                 SIGSTOP, then SIGCONT
  --fault="slow worker 2 by 4 from step 20 to step 60"      stopped for 3/4 of every 0.2 s

A task is "worker I", "ps I" or "chief". A moment is "step T", after T updates, or "S s", after S
seconds of training. These begin with the first update, and stand still while training is being
started again. A fault waits until its task runs, and until training has made an update since its
last start.

The cluster starts a worker again that has ended. If a parameter server or the chief ends, training
starts again from its last checkpoint, which needs --log_dir. Networks are not cut.

Examples:

  python scripts/chaos.py --fault="kill worker 1 at step 50" --csv=faults.csv
  python scripts/chaos.py --random_faults=40 --mean_seconds_between_faults=5 --seed=1
  python scripts/chaos.py --fault="kill chief at step 90" --log_dir=/tmp/chaos

Exit codes: 0 if training went on after every fault, the accounts of gradients add up and no pause
was longer than allowed; 2 if flags are wrong; 1 otherwise, with a sentence for each failure.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from scripts import early  # noqa: F401, I001

from absl import app, flags

from scripts import console, exits
from scripts.benchmarks.environment import Environment
from scripts.benchmarks.markdown import markdown
from scripts.faults import faulted_run, random_faults, scenario
from scripts.faults.fault import ACTIONS, JOBS, Fault, Target
from scripts.faults.fault_progress import FaultProgress
from scripts.faults.fault_results import Results
from scripts.faults.faulted_run import Outcome
from scripts.faults.judgement import Judge
from scripts.faults.training_process import TrainingProcess

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("fault", [], "A fault, as above; may be given several times.")
flags.DEFINE_integer("random_faults", 0, "Number of random faults.", lower_bound=0)
flags.DEFINE_float("mean_seconds_between_faults", 5.0, "Mean time between random faults.")
flags.DEFINE_list("random_actions", list(ACTIONS), "Actions of random faults.")
flags.DEFINE_list("random_jobs", ["worker"], f"Tasks of random faults: some of {','.join(JOBS)}.")
flags.DEFINE_integer("seed", 0, "Of random faults, initial weights and shuffles.", lower_bound=0)
flags.DEFINE_enum(
    "model", "small_cnn", ["small_cnn", "char_lstm", "word_lstm"], "Model; its data is built in."
)
flags.DEFINE_integer("replicas", 3, "N: gradients averaged in one update.", lower_bound=1)
flags.DEFINE_integer("backups", 2, "b: workers beyond N that nobody waits for.", lower_bound=0)
flags.DEFINE_integer("ps_tasks", 1, "Number of parameter servers.", lower_bound=1)
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
    "Default: --worker_timeout_s, and 3 s for a step. While the chief or a ps is frozen, this time "
    "stands still.",
)
flags.DEFINE_float(
    "max_restart_s", 120.0, "The same, where training starts again from a checkpoint in between."
)
flags.DEFINE_bool("baseline", True, "Train again without faults, and compare.")
flags.DEFINE_string("csv", None, "File to write the results to.")

_NAME = "chaos.py"
_STEP_S = 3.0  # In --max_pause_s.
_LEAST_UPDATES = 300
_PER_EPOCH = 200  # Updates between two validations.
_SPARE = 1.2  # Part of the updates that random and timed faults need, for a fast machine.


def planned() -> list[Fault]:
    """Return the faults that the flags describe, in the order of the flags.

    Raises:
      ValueError: if a flag is wrong, or a fault does not fit the cluster.
    """
    faults = [scenario.parse(text) for text in FLAGS.fault]
    _check_numbers()
    for flag, known in (("random_actions", ACTIONS), ("random_jobs", JOBS)):
        for name in FLAGS[flag].value:
            if name not in known:
                raise ValueError(
                    f"--{flag} has {name!r}; it must be some of {', '.join(known)}, separated by "
                    "commas."
                )
    if FLAGS.random_faults:
        counts = {"worker": FLAGS.replicas + FLAGS.backups, "ps": FLAGS.ps_tasks, "chief": 1}
        faults += random_faults.draw(
            FLAGS.random_faults,
            FLAGS.mean_seconds_between_faults,
            FLAGS.seed,
            [Target(job, index) for job in FLAGS.random_jobs for index in range(counts[job])],
            FLAGS.random_actions,
            FLAGS.backups,
        )
    if not faults:
        raise ValueError("there is no fault to inject. Give --fault or --random_faults.")
    return faults


def _check_numbers() -> None:
    for name in ("mean_seconds_between_faults", "max_pause_s", "max_restart_s", "checkpoint_s"):
        value = FLAGS[name].value
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} is {value}; it must be above 0 and finite.")
    if not 0 <= FLAGS.step_s < math.inf:
        raise ValueError(f"--step_s is {FLAGS.step_s}; it must be at least 0 and finite.")
    for name, least in (("worker_timeout_s", 2.0), ("server_timeout_s", 1.0)):
        if not least <= FLAGS[name].value < math.inf:
            raise ValueError(
                f"--{name} is {FLAGS[name].value}; it must be at least {least:g} and finite."
            )


def updates_for(faults: Sequence[Fault]) -> int:
    """Return --updates, or else a number that leaves time for all faults."""
    if FLAGS.updates is not None:
        return int(FLAGS.updates)
    last = {True: 0.0, False: 0.0}  # By whether they are steps.
    for fault in faults:
        moment = fault.end or fault.begin
        more = fault.seconds or 0.0
        last[moment.of_steps] = max(last[moment.of_steps], moment.value + more)
    if last[False] and not FLAGS.step_s:
        raise ValueError(
            f"--step_s is 0, so nobody knows how many updates {last[False]:g} s need. Give "
            "--updates."
        )
    timed = _SPARE * last[False] / FLAGS.step_s if last[False] else 0.0
    return max(_LEAST_UPDATES, math.ceil(timed), math.ceil(1.5 * last[True]))


def training_flags(updates: int, log_dir: str | None) -> list[str]:
    """Return the flags of train.py."""
    workers = FLAGS.replicas + FLAGS.backups
    names = ("model", "replicas", "backups", "ps_tasks", "seed", "worker_timeout_s")
    result = [f"--{name}={FLAGS[name].value}" for name in (*names, "server_timeout_s")]
    result += [f"--updates={updates}", f"--updates_per_epoch={min(updates, _PER_EPOCH)}"]
    result += ["--worker_restarts=1000000", "--restarts=10"]
    if FLAGS.step_s:
        result += [f"--delay={worker}:{FLAGS.step_s}" for worker in range(workers)]
    if log_dir is not None:
        result += [f"--log_dir={log_dir}", f"--checkpoint_minutes={FLAGS.checkpoint_s / 60}"]
    return result


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """Yield --log_dir, which is created, or a temporary directory.

    Raises:
      ValueError: if --log_dir has files already.
    """
    if FLAGS.log_dir is None:
        with tempfile.TemporaryDirectory(prefix="chaos_") as path:
            yield path
        return
    os.makedirs(FLAGS.log_dir, exist_ok=True)
    if os.listdir(FLAGS.log_dir):
        raise ValueError(
            f"--log_dir is {FLAGS.log_dir}, which has files. Name a directory that is empty or is "
            "not there: the training run must begin from the start."
        )
    yield FLAGS.log_dir


def train(name: str, updates: int, faults: Sequence[Fault], parent: str) -> Outcome:
    """Train in a subdirectory of `parent`."""
    path = os.path.join(parent, name)
    os.makedirs(path)
    logs = os.path.join(path, "logs") if FLAGS.log_dir else None
    progress = FaultProgress(name, updates, len(faults))
    try:
        training = TrainingProcess(training_flags(updates, logs), path)
        return faulted_run.run(training, faults, 2 * FLAGS.max_restart_s, progress)
    finally:
        progress.end()


def show(results: Results) -> None:
    """Print the tables, and write the CSV file that the flags ask for."""
    parts = [markdown(*results.faults), markdown(*results.speeds), results.accounts]
    print("\n\n".join(filter(None, parts)))
    if FLAGS.csv:
        settings = {name: FLAGS[name].value for name in ("model", "replicas", "backups")}
        settings |= {"ps": FLAGS.ps_tasks, "step_s": FLAGS.step_s, "seed": FLAGS.seed}
        settings["command"] = shlex.join(["python", *sys.argv])
        results.write(FLAGS.csv, settings, vars(Environment.here(intra_op_threads=1)))


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if len(argv) > 1:
        exits.end(f"{_NAME} takes flags only, not {argv[1]!r}; see --help.", exits.WRONG)
    console.set_up()
    with exits.reporting_errors("", _NAME), contextlib.ExitStack() as stack:
        exits.at_signals()
        faults = planned()
        updates = updates_for(faults)
        workers = FLAGS.replicas + FLAGS.backups
        scenario.Limits(workers, FLAGS.ps_tasks, updates, bool(FLAGS.log_dir)).check(faults)
        with exits.preparing(_NAME):
            parent = stack.enter_context(folder())
            if FLAGS.csv:
                with open(FLAGS.csv, "a", encoding="utf-8"):
                    pass
        pause_s = FLAGS.max_pause_s or FLAGS.worker_timeout_s + _STEP_S
        judge = Judge(pause_s, FLAGS.max_restart_s)
        faulted = train("faults", updates, faults, parent)
        baseline = train("baseline", updates, [], parent) if FLAGS.baseline else None
        results = Results(faulted, baseline, judge)
        show(results)
    if results.failures:
        exits.end("\nFailed:\n" + "\n".join(results.failures), exits.FAILED)


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
