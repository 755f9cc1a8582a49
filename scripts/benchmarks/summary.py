"""Medians and ratios of the benchmark's rows."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence

from scripts.benchmarks.rows import Row


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and range of a number over all rounds.

    Attributes:
      median: the median.
      low: the lowest value.
      high: the highest value.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return the spread of some values; None without any."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1]) if found else None


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model and a number of parameter servers, on which systems are compared."""

    model: str
    ps: int

    def __str__(self) -> str:
        """Return a description."""
        return f"{self.model}, {self.ps} ps"


class Summary:
    """Medians and ratios of a benchmark.

    Args:
      rows: all measurements.

    Attributes:
      settings: settings in the order of the rows.
      systems: names of systems in the order of the rows.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.settings = list(dict.fromkeys(Setting(row.model, row.ps) for row in rows))
        self.systems = list(dict.fromkeys(row.system for row in rows))

    def of(self, setting: Setting, system: str) -> list[Row]:
        """Return the rows of a system, by round."""
        return [
            row for row in self.rows if (row.model, row.ps, row.system) == (*_key(setting), system)
        ]

    def spread(
        self, setting: Setting, system: str, value: Callable[[Row], float | None]
    ) -> Spread | None:
        """Return the spread of a value of a system; None if the system has no such value."""
        values = (value(row) for row in self.of(setting, system))
        return Spread.of(each for each in values if each is not None)

    def ratio(self, setting: Setting, system: str, other: str) -> Spread | None:
        """Return the spread of the ratio of two systems' gradients used per second.

        Measurements are compared within a round only, since the speed of a machine drifts.

        Returns:
          The spread over the rounds that have both systems; None without any.
        """
        others = {row.round: row for row in self.of(setting, other)}
        return Spread.of(
            row.gradients_per_s / others[row.round].gradients_per_s
            for row in self.of(setting, system)
            if row.round in others
        )


def _key(setting: Setting) -> tuple[str, int]:
    return setting.model, setting.ps
