"""CSV file of an experiment, to which points are added one after another.

All rows of a file are of one version of the code and of one set of settings. The environment of
each row stands beside it.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.experiments.definition import Point, Row

ROOT = Path(__file__).parents[2]

# Results of different versions are never mixed; those of different machines may be.
VERSION = ("code", "tf_backup", "tensorflow", "keras", "numpy", "python")
_SOURCES = ("tf_backup", "models", "scripts/experiments")


class MixedResults(ValueError):
    """A file has results of another version or of other settings."""


class ResultFile:
    """Rows of an experiment on disk, complete after every point.

    Args:
      path: path of the file, which is created with the first point.
      experiment: name of the experiment.
      scale: its scale.
      settings: its settings, a dataclass.
      environment: columns that say where the rows were made; they include `VERSION`.
      replace: whether to drop rows of another version or of other settings.

    Raises:
      MixedResults: if the file has such rows, and they are not to be dropped.
    """

    def __init__(
        self,
        path: Path,
        experiment: str,
        scale: str,
        settings: Any,
        environment: Mapping[str, Any],
        replace: bool = False,
    ) -> None:
        self._path = path
        text = json.dumps(dataclasses.asdict(settings), sort_keys=True)
        self._start: Row = {"experiment": experiment, "scale": scale}
        self._end: Row = {"settings": text, **environment}
        self.rows = read(path) if path.exists() else []
        differs = self._difference()
        if differs and not replace:
            raise MixedResults(
                f"{path} has results with another {differs}; they are not mixed. Give another "
                "--results directory, or --replace to make all its rows anew."
            )
        if differs:
            self.rows = []

    def has(self, point: Point, seed: int) -> bool:
        """Return whether a point was measured with a seed."""
        wanted = {**point, "seed": seed}
        return any(all(row.get(k) == v for k, v in wanted.items()) for row in self.rows)

    def add(self, point: Point, seed: int, rows: Iterable[Row]) -> None:
        """Add the rows of a point, all or none of them."""
        start = {**self._start, "seed": seed, **point}
        self.rows += [{**start, **row, **self._end} for row in rows]
        partial = self._path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {name: _text(value) for name, value in row.items()} for row in self.rows
            )
        os.replace(partial, self._path)

    def _difference(self) -> str:
        """Return what differs between the file and this run; empty if nothing does."""
        mine = {**self._start, **self._end}
        for row in self.rows:
            for name in ("experiment", "scale", "settings", *VERSION):
                if str(row.get(name)) != str(mine[name]):
                    return f"{name} ({row.get(name)} instead of {mine[name]})"
        return ""


def read(path: Path) -> list[Row]:
    """Return the rows of a file, with numbers as numbers.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if no experiment wrote it.
    """
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        missing = {"experiment", "scale", "seed", "settings", *VERSION} - {
            *(table.fieldnames or ())
        }
        if missing:
            raise ValueError(
                f"{path} has no column {min(missing)!r}; it must be a file of experiment.py."
            )
        names = list(table.fieldnames or ())
        numbers = names[: names.index("settings")]  # What follows is the environment.
        return [{**row, **{name: _value(row[name]) for name in numbers}} for row in table]


def code_digest() -> str:
    """Return a digest of the source files that results depend on."""
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def seeds_of(rows: Sequence[Row]) -> list[int]:
    """Return the seeds of some rows."""
    return sorted({row["seed"] for row in rows})


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
