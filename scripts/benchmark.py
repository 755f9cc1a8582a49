"""Gradients per second: tf_backup beside its peers, on processes of this machine, in turns.

Every system trains the same models, with the same optimizer (SGD) and batch size, on W workers
(default: 3) and each number of parameter servers. A worker's batch is in memory, and always the
same: reading it costs nothing. tf_backup and keras_fit are driven by `compile` and `fit` (a turn is
a whole `fit`, with its beginning and end), the others by a step in plain TensorFlow with the same
arithmetic. One system moves at a time; each has a turn in every round.

What counts is gradients used per second: N times the updates per second. Gradients that came too
late are not used. The timings of a busy machine are noisy: compare ratios within a round. Beside
the speed are measured: bytes on the loopback interface, bytes through the chief's connections, CPU
time, and peak memory since the start of each process.

Every operation may use one thread (--intra_op), in every process: workers that share a few cores
are fastest with that. Processes that serve others run W + 2 operations at once (4 at least), the
others TensorFlow's default, one for each core. one_device then computes on about one core, and W
workers on as many as there are.

{catalogue}

Examples:

  python scripts/benchmark.py                                      # all: an hour on two cores
  python scripts/benchmark.py --csv=speed.csv --picture=speed.svg
  python scripts/benchmark.py --models=dense --ps=1 --systems=tf_backup,stock_async
  python scripts/benchmark.py --models=cnn --systems=tf_backup_full_sync --slow_worker
  python scripts/benchmark.py --smoke                              # does all run? a few minutes
  python scripts/benchmark.py --read=speed.csv --picture=speed.png # measures nothing

Ctrl-C ends all processes; the CSV file has what was measured until then, for --read. Exit codes: 0
if all was measured, 2 when flags are wrong, 1 for all else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Should an error have to import TensorFlow.

from absl import app, flags

from scripts import console, exits
from scripts.benchmarks import architectures, catalogue, picture, rows, tables, turns
from scripts.benchmarks.progress import Progress

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(architectures.ALL), "Models to train.")
flags.DEFINE_list("systems", list(catalogue.DEFAULT), "Systems to compare.")
flags.DEFINE_list("ps", ["1", "2"], "Numbers of parameter servers.")
flags.DEFINE_integer("workers", 3, "W, the number of workers; 2 or more.", lower_bound=2)
flags.DEFINE_integer("rounds", 3, "Turns of each system in each setting.", lower_bound=1)
flags.DEFINE_float("seconds", 10.0, "How long a turn is to take.", lower_bound=0.1)
flags.DEFINE_integer("steps", None, "Updates in a turn, instead of --seconds.", lower_bound=1)
flags.DEFINE_integer("intra_op", 1, "Threads that one operation may use.", lower_bound=1)
flags.DEFINE_bool(
    "slow_worker",
    False,
    "Also measure W + 1 workers, the last of them ten times slower, with N = W and b = 1: beside "
    "tf_backup_full_sync, which is the W healthy workers alone.",
)
flags.DEFINE_bool(
    "smoke",
    False,
    "One round of --steps=3 of the dense model on one parameter server, unless other flags say "
    "else: shows that all systems run, and not how fast.",
)
flags.DEFINE_string("csv", None, "Where to write the measurements.")
flags.DEFINE_string("markdown", None, "Where to write the tables that are printed.")
flags.DEFINE_string("picture", None, "Where to draw a picture: .svg, .png or .pdf.")
flags.DEFINE_string("read", None, "A CSV file of an earlier call to show, instead of measuring.")

_NAME = "benchmark.py"
_SMOKE = {"models": ["dense"], "ps": ["1"], "rounds": 1, "steps": 3}

__doc__ = __doc__.format(
    catalogue="\n".join(
        f"{title}\n" + "\n".join(f"  {each.name:<23}{each.summary}" for each in known.values())
        for title, known in (("Systems:", catalogue.ALL), ("\nModels:", architectures.ALL))
    )
)


def plan() -> turns.Plan:
    """Return what the flags say to measure.

    Raises:
      ValueError: naming the flag, its value and what it may be.
    """
    if FLAGS.smoke:
        for name, value in _SMOKE.items():
            FLAGS.set_default(name, value)
    systems = _known("systems", FLAGS.systems, catalogue.ALL)
    if FLAGS.slow_worker:
        systems += [catalogue.HEALTHY, catalogue.SLOW]
    for count in FLAGS.ps:
        if not count.isdigit() or count == "0":
            raise ValueError(f"--ps has {count!r}; it must be numbers of at least 1, as in 1,2.")
    return turns.Plan(
        models=_known("models", FLAGS.models, architectures.ALL),
        ps=[int(count) for count in FLAGS.ps],
        systems=[name for name in catalogue.ALL if name in systems],
        rounds=FLAGS.rounds,
        workers=FLAGS.workers,
        seconds=FLAGS.seconds,
        steps=FLAGS.steps,
        intra_op=FLAGS.intra_op,
    )


def _known(flag: str, names: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return names, checked to be known and some."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"--{flag} has {unknown[0] if unknown else ''!r}; it must be some of: "
            f"{', '.join(known)}."
        )
    return list(names)


def check_outputs() -> None:
    """Check, before an hour of measurements, that their results can be written and drawn.

    Raises:
      ImportError: if there is to be a picture, and matplotlib is not installed.
      OSError: if a file cannot be written.
      ValueError: if a picture has no CSV file to be drawn from, or a format that is not known.
    """
    if FLAGS.picture:
        if not (FLAGS.csv or FLAGS.read):
            raise ValueError("--picture is drawn from a CSV file: give --csv or --read, too.")
        picture.check(FLAGS.picture)
    for path in filter(None, (FLAGS.csv, FLAGS.markdown, FLAGS.picture)):
        with open(path, "a", encoding="utf-8"):
            pass


def measure(todo: turns.Plan) -> tuple[list[rows.Row], list[str]]:
    """Measure; return the rows, which are in the CSV file, too, and what failed."""
    found: list[rows.Row] = []
    with rows.writing(FLAGS.csv) if FLAGS.csv else contextlib.nullcontext(None) as write:

        def note(row: rows.Row) -> None:
            found.append(row)
            if write is not None:
                write(row)

        failures = turns.run(todo, note, Progress(todo.measurements))
    return found, failures


def show(found: Sequence[rows.Row]) -> None:
    """Print, write and draw results."""
    if not found:
        return
    text = tables.report(found)
    print(text)
    if FLAGS.markdown:
        with open(FLAGS.markdown, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    if FLAGS.picture:
        picture.draw(FLAGS.csv or FLAGS.read, FLAGS.picture)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if len(argv) > 1:
        exits.end(f"benchmark.py takes flags only, not {argv[1]!r}; see --help.", exits.WRONG)
    console.set_up()
    failures: list[str] = []
    with exits.told(f" {FLAGS.csv} has what was measured." if FLAGS.csv else "", _NAME):
        exits.at_sigterm()
        try:
            with exits.preparing(_NAME):
                todo = plan()
                check_outputs()
                found = rows.read(FLAGS.read) if FLAGS.read else []
        except ValueError as error:
            exits.end(f"{_NAME}: {error}", exits.WRONG)
        if not FLAGS.read:
            found, failures = measure(todo)
        show(found)
    if failures:
        exits.end("\nNot measured:\n" + "\n".join(failures), exits.FAILED)


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
