"""Compares the speed of tf_backup with that of its peers, on processes of this machine.

All systems train the same models, with the same batch size and SGD, on W workers (--workers) and
each number of parameter servers (--ps). Each worker repeats one batch from memory, so that input
costs nothing. tf_backup and keras_fit use `compile` and `fit`, and their time is that of the whole
`fit`; the other systems use a training step in plain TensorFlow with the same arithmetic. Only one
system runs at a time. In every round, each system is measured once.

Speed is the number of gradients used per second: N times the updates per second. Late gradients do
not count. Timings of a busy machine are noisy: give --wait_s if others use it, and compare the
ratios, which are taken within a round. The tables also show the bytes on the loopback interface,
the bytes of the chief's connections, CPU time, and the peak memory of each kind of process.

In every process, one operation uses one thread (--intra_op), which is fastest for processes that
share a few cores. Workers and parameter servers run W + 2 operations at once, but at least 4; all
other processes use TensorFlow's default, one per core. one_device then uses about one core, and
the workers together use all of them.

The flags --systems and --models say what there is.

Examples:

  python scripts/benchmark.py --csv=speed.csv --picture=speed.svg   # about 80 minutes on two cores
  python scripts/benchmark.py --models=dense --ps=1 --systems=tf_backup,stock_async
  python scripts/benchmark.py --models=cnn --systems=tf_backup_full_sync --slow_worker
  python scripts/benchmark.py --models=dense --systems=tf_backup_full_sync --profile
  python scripts/benchmark.py --models=tiny,dense_10M --systems=tf_backup_full_sync --workers=8
  python scripts/benchmark.py --smoke                               # checks that all systems run
  python scripts/benchmark.py --read=speed.csv --picture=speed.png  # shows earlier results

Ctrl-C ends all processes, and the CSV file keeps the measurements made so far. Exit codes: 0 if
everything was measured, 2 if flags are wrong, 1 otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # In case `exits` imports TensorFlow.

from scripts import early  # noqa: F401, I001

from absl import app, flags

from scripts import console, exits, flag_values
from scripts.benchmarks import architectures, rows, turns
from scripts.benchmarks import systems_compared
from scripts.benchmarks import chart
from scripts.benchmarks import markdown
from scripts.benchmarks.progress_lines import Progress


def _catalogue(known: Mapping[str, architectures.Architecture | systems_compared.System]) -> str:
    """Return a line for each entry."""
    return "\n".join(f"{each.name}: {each.summary}." for each in known.values())


flags.DEFINE_list(
    "models", list(architectures.DEFAULT), f"Models to train:\n{_catalogue(architectures.ALL)}"
)
flags.DEFINE_list(
    "systems",
    list(systems_compared.DEFAULT),
    f"Systems to compare, of W workers:\n{_catalogue(systems_compared.ALL)}",
)
flags.DEFINE_list("ps", ["1", "2"], "Numbers of parameter servers.")
flags.DEFINE_integer("workers", 3, "W, the number of workers, at least 2.", lower_bound=2)
flags.DEFINE_integer("rounds", 3, "Measurements of each system and setting.", lower_bound=1)
flags.DEFINE_float("seconds", 10.0, "Length of a measurement.", lower_bound=0.1)
flags.DEFINE_integer("steps", None, "Updates per measurement, instead of --seconds.", lower_bound=1)
flags.DEFINE_float(
    "wait_s",
    0.0,
    "How long to wait, before each measurement, for other processes to become quiet. A measurement "
    "that they disturb is repeated within this time.",
    lower_bound=0.0,
)
flags.DEFINE_integer("intra_op", 1, "Threads for one operation, in all processes.", lower_bound=1)
flags.DEFINE_bool(
    "slow_worker",
    False,
    "Also measure W + 1 workers with N = W and b = 1, the last of which is ten times slower than "
    "the others, and compare them with the W healthy workers alone (tf_backup_full_sync).",
)
flags.DEFINE_bool(
    "profile",
    False,
    "Also show where the time of an update goes, for all systems of tf_backup. They record the "
    "times of all gradients for it, which costs about 2% of the speed.",
)
flags.DEFINE_bool(
    "smoke",
    False,
    "Check that all systems run: --models=dense --ps=1 --rounds=1 --steps=3, unless given. Its "
    "speeds mean nothing.",
)
flags.DEFINE_string("csv", None, "File to write the measurements to.")
flags.DEFINE_string("markdown", None, "File to write the tables to, which are also printed.")
flags.DEFINE_string("picture", None, "File to draw the speeds in: .svg, .png or .pdf.")
flags.DEFINE_string("read", None, "CSV file of an earlier call to show, instead of measuring.")

_NAME = "benchmark.py"
_SMOKE = {"models": ["dense"], "ps": ["1"], "rounds": 1, "steps": 3}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of the flags, by their names; None if a flag without a default is not given."""

    models: Sequence[str]
    systems: Sequence[str]
    ps: Sequence[str]
    workers: int
    rounds: int
    seconds: float
    steps: int | None
    wait_s: float
    intra_op: int
    slow_worker: bool
    profile: bool
    smoke: bool
    csv: str | None
    markdown: str | None
    picture: str | None
    read: str | None


def plan(settings: Settings) -> turns.Plan:
    """Return the plan that the settings describe.

    Raises:
      ValueError: if a flag has a wrong value.
    """
    systems = _known("systems", settings.systems, systems_compared.ALL)
    if settings.slow_worker:
        systems += [systems_compared.HEALTHY, systems_compared.SLOW]
    for count in settings.ps:
        if not count.isdigit() or count == "0":
            raise ValueError(f"--ps has {count!r}; it must be numbers of at least 1, as in 1,2.")
    return turns.Plan(
        models=_known("models", settings.models, architectures.ALL),
        ps=[int(count) for count in settings.ps],
        systems=[name for name in systems_compared.ALL if name in systems],
        rounds=settings.rounds,
        workers=settings.workers,
        seconds=settings.seconds,
        steps=settings.steps,
        intra_op=settings.intra_op,
        wait_s=settings.wait_s,
        profile=settings.profile,
    )


def _known(flag: str, names: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the names, if there are any and all are known."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"--{flag} has {unknown[0] if unknown else ''!r}; it must be some of: "
            f"{', '.join(known)}."
        )
    return list(names)


def check_outputs(settings: Settings) -> None:
    """Check that results can be written, before they are measured.

    Raises:
      ImportError: if --picture is given, but matplotlib is not installed.
      OSError: if a file cannot be written.
      ValueError: if --picture has an unknown format, or no CSV file to be drawn from.
    """
    if settings.picture:
        if not (settings.csv or settings.read):
            raise ValueError("--picture is drawn from a CSV file: give --csv or --read, too.")
        chart.check(settings.picture)
    for path in filter(None, (settings.csv, settings.markdown, settings.picture)):
        with open(path, "a", encoding="utf-8"):
            pass


def measure(todo: turns.Plan, csv: str | None) -> tuple[list[rows.Row], list[str]]:
    """Measure; return the rows, and a line for each system that failed.

    Args:
      todo: what to measure.
      csv: file to write the rows to.
    """
    found: list[rows.Row] = []
    with rows.writing(csv) if csv else contextlib.nullcontext(None) as write:

        def note(row: rows.Row) -> None:
            found.append(row)
            if write is not None:
                write(row)

        failures = turns.run(todo, note, Progress(todo.measurements))
    return found, failures


def show(settings: Settings, found: Sequence[rows.Row]) -> None:
    """Print the tables, and write and draw what the settings ask for."""
    if not found:
        return
    text = markdown.report(found)
    print(text)
    if settings.markdown:
        with open(settings.markdown, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    data = settings.csv or settings.read
    if settings.picture and data:
        chart.draw(data, settings.picture)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if len(argv) > 1:
        exits.end(f"benchmark.py takes flags only, not {argv[1]!r}; see --help.", exits.WRONG)
    console.set_up()
    settings = flag_values.read(Settings)
    if settings.smoke:
        settings = flag_values.read(Settings, defaults=_SMOKE)
    failures: list[str] = []
    with exits.reporting_errors(
        f" {settings.csv} has the measurements made so far." if settings.csv else "", _NAME
    ):
        exits.at_signals()
        try:
            with exits.preparing(_NAME):
                todo = plan(settings)
                check_outputs(settings)
                found = rows.read(settings.read) if settings.read else []
        except ValueError as error:
            exits.end(f"{_NAME}: {error}", exits.WRONG)
        if not settings.read:
            found, failures = measure(todo, settings.csv)
        show(settings, found)
    if failures:
        exits.end("\nNot measured:\n" + "\n".join(failures), exits.FAILED)


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
