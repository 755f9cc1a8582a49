"""Table of the paper's claims and our results, in results/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.experiments import catalogue, result_file
from scripts.experiments.definition import Experiment, Row

BEGIN = "<!-- The table is written by scripts/plot.py. -->"
END = "<!-- End of the table. -->"

_HEAD = (
    "experiment",
    "claim",
    "the paper",
    "how certain",
    "ours (mean ± standard deviation over seeds)",
    "agrees",
    "rule, stated before",
    "what differs",
    "scale, seeds",
)


def lines_of(experiment: Experiment, rows: Sequence[Row]) -> list[str]:
    """Return the lines of an experiment."""
    name, seeds = experiment.name, len(result_file.seeds_of(rows))
    found = []
    for claim in experiment.claims(rows):
        cells = (
            f"[`{name}`]({name}.svg)",
            claim.what,
            claim.paper,
            claim.certainty,
            claim.ours,
            f"**{claim.verdict}**",
            claim.rule,
            claim.why,
            f"{rows[0]['scale']}, {seeds} seeds",
        )
        found.append("| " + " | ".join(cells) + " |")
    return found


def table(folder: Path) -> str:
    """Return the table of all experiments that have results in a folder."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for name in catalogue.NAMES:
        path = folder / f"{name}.csv"
        if path.exists():
            lines += lines_of(catalogue.find(name), result_file.read(path))
    return "\n".join(lines)


def update(folder: Path) -> bool:
    """Write the table into the README of a folder; return whether it has a place for it."""
    path = folder / "README.md"
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return False
    path.write_text(f"{before}{BEGIN}\n\n{table(folder)}\n\n{END}{after}", encoding="utf-8")
    return True
