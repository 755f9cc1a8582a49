"""Runs one experiment of the paper, and writes its results as a CSV file.

Examples:

  python scripts/experiment.py figure3                    # writes results/figure3.csv
  python scripts/experiment.py backup_sweep --seeds=1,2,3 --results=runs
  python scripts/experiment.py figure2 --data_dir=DIR     # with real gradients, of MNIST

The rows have seed, setting, and the environment: versions, commit, machine. If the command is
interrupted, the same command goes on after the last finished point. Results of another version of
the code or of other settings are never mixed. scripts/plot.py draws the results.

--list prints the names of all experiments.

Exit codes: 0 if everything is measured, 2 if flags, data or the file of results are wrong, 143
after SIGTERM, 1 otherwise.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from scripts import early  # noqa: F401, I001

import numpy as np
from absl import app, flags

from scripts import console, exits, flag_values
from scripts.benchmarks.environment import Environment
from scripts.experiments import catalogue, definition, measuring, result_file
from scripts.experiments.time_left import TimeLeft

flags.DEFINE_enum(
    "scale",
    definition.SMALL,
    definition.SCALES,
    "small: on two cores. paper: with the paper's numbers. tiny: shows in seconds that it works.",
)
flags.DEFINE_string("results", "results", "Directory of the results.")
flags.DEFINE_list("seeds", [], "Seeds; default: the experiment's.")
flags.DEFINE_string(
    "data_dir",
    None,
    "Where tensorflow-datasets keeps its data; default: ~/tensorflow_datasets.",
)
flags.DEFINE_bool(
    "replace",
    False,
    "Redo results of another version or of other settings, instead of refusing them.",
)
flags.DEFINE_bool("list", False, "Print the names of all experiments and what they are, and end.")
flags.DEFINE_integer("intra_op", 1, "Threads for one operation of TensorFlow.", lower_bound=1)

_NAME = "experiment.py"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Values of the flags, by their names; None if a flag without a default is not given."""

    scale: str
    results: str
    seeds: Sequence[str]
    data_dir: str | None
    replace: bool
    list: bool
    intra_op: int


def environment(intra_op: int) -> dict[str, Any]:
    """Return the columns that say where a row was made."""
    found = dataclasses.asdict(Environment.here(intra_op))
    return {**found, "numpy": np.__version__, "code": result_file.code_digest()}


def seeds(given: Sequence[str], default: Sequence[int]) -> list[int]:
    """Return the seeds that --seeds asks for.

    Raises:
      ValueError: if one is no number.
    """
    wrong = [text for text in given if not text.strip().isdigit()]
    if wrong:
        raise ValueError(f"--seeds has {wrong[0]!r}; it must be numbers from 0, as in 1,2,3.")
    return list(dict.fromkeys(int(text) for text in given)) or list(default)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    console.set_up()
    given = flag_values.read(Flags)
    if given.list:
        print(catalogue.overview())
        return
    if len(argv) != 2:
        known = ", ".join(catalogue.NAMES)
        exits.end(f"{_NAME} takes the name of one experiment: {known}.", exits.WRONG)
    with exits.reporting_errors(" The same command goes on from here.", _NAME):
        exits.at_signals()
        experiment = catalogue.find(argv[1])
        settings, chosen = experiment.at(given.scale), seeds(given.seeds, experiment.seeds)
        with exits.preparing(_NAME):
            folder = Path(given.results)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{experiment.name}.csv"
            here = environment(given.intra_op)
            results = result_file.ResultFile(
                path, experiment.name, given.scale, settings, here, given.replace
            )
            todo = measuring.missing(experiment, settings, chosen, results)
            if experiment.prepare and todo:
                experiment.prepare(settings, given.data_dir, given.intra_op)
        if todo:
            progress = TimeLeft(len(todo))
            measuring.measure(experiment, settings, chosen, results, progress, given.data_dir)
        print(f"{path} has {len(results.rows)} rows.")


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
