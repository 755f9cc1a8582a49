"""Draws results of scripts/experiment.py, and writes what they say into the table of claims.

Examples:

  python scripts/plot.py figure3                 # results/figure3.csv to results/figure3.svg
  python scripts/plot.py figure3 --format=png
  python scripts/plot.py --results=runs          # all that runs/ has

If the directory of the results has a README.md with a place for the table, as results/ has, the
table is written anew. Exit codes: 0 if all is drawn, 2 if a name or a file is wrong.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from scripts import early  # noqa: F401, I001

from absl import app, flags

from scripts import console, exits, flag_values
from scripts.experiments import canvas, catalogue, claims_table, result_file

flags.DEFINE_string("results", "results", "Directory of the results.")
flags.DEFINE_enum("format", "svg", ["svg", "png"], "Format of the pictures.")

_NAME = "plot.py"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of the flags, by their names."""

    results: str
    format: str


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    console.set_up()
    with exits.reporting_errors("", _NAME), exits.preparing(_NAME):
        exits.at_signals()
        settings = flag_values.read(Settings)
        folder = Path(settings.results)
        made = [name for name in catalogue.NAMES if (folder / f"{name}.csv").exists()]
        for experiment in [catalogue.find(name) for name in argv[1:] or made]:
            path = folder / f"{experiment.name}.csv"
            if not path.exists():
                raise ValueError(
                    f"{path} is not there. Run scripts/experiment.py {experiment.name} first."
                )
            picture = path.with_suffix(f".{settings.format}")
            canvas.draw(experiment, result_file.read(path), str(picture))
            print(f"{picture} is drawn.")
        if claims_table.update(folder):
            print(f"{folder / 'README.md'} has the table.")


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
