"""Means over seeds, and their standard deviations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from scripts.experiments.definition import Row


class Spread(NamedTuple):
    """Mean of a number over seeds, and its standard deviation (of a sample: n - 1)."""

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of some values; the deviation of one value is 0."""
        found = np.asarray(list(values), np.float64)
        deviation = found.std(ddof=1) if len(found) > 1 else 0.0
        return cls(float(found.mean()), float(deviation), len(found))

    def text(self, form: str = ".2f", unit: str = "", scale: float = 1.0) -> str:
        """Return the spread as text: mean ± deviation."""
        return f"{self.mean * scale:{form}} ± {self.deviation * scale:{form}}{unit}"


def select(rows: Iterable[Row], **values: Any) -> list[Row]:
    """Return the rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def by_seed(rows: Iterable[Row], number: Callable[[list[Row]], float]) -> Spread:
    """Return the spread of a number that is computed from the rows of each seed."""
    rows = list(rows)
    seeds = dict.fromkeys(row["seed"] for row in rows)
    return Spread.of(number(select(rows, seed=seed)) for seed in seeds)
