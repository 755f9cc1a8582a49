"""Medians and ratios of the benchmark's rows."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence

from scripts.benchmarks.rows import Row


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number that was measured several times.

    Attributes:
      median: of all rounds.
      low: the lowest.
      high: the highest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return the spread of values; None if there are none."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1]) if found else None


@dataclasses.dataclass(frozen=True)
class Setting:
    """What systems are compared on: a model, and a number of parameter servers."""

    model: str
    ps: int

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.model}, {self.ps} ps"


class Summary:
    """Numbers of a whole benchmark.

    Args:
      rows: of its measurements.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.settings = list(dict.fromkeys(Setting(row.model, row.ps) for row in rows))
        self.systems = list(dict.fromkeys(row.system for row in rows))

    def of(self, setting: Setting, system: str) -> list[Row]:
        """Return the rows of a system, by round; none if it was not measured."""
        return [
            row for row in self.rows if (row.model, row.ps, row.system) == (*_key(setting), system)
        ]

    def spread(
        self, setting: Setting, system: str, value: Callable[[Row], float | None]
    ) -> Spread | None:
        """Return the median and range of a value of a system; None if it has none."""
        values = (value(row) for row in self.of(setting, system))
        return Spread.of(each for each in values if each is not None)

    def ratio(self, setting: Setting, system: str, other: str) -> Spread | None:
        """Return how many times faster a system is than another one.

        Only measurements of the same round are compared, since a machine's speed drifts.

        Returns:
          The median and range of the ratios of gradients used per second; None if no round has
          both.
        """
        others = {row.round: row for row in self.of(setting, other)}
        return Spread.of(
            row.gradients_per_s / others[row.round].gradients_per_s
            for row in self.of(setting, system)
            if row.round in others
        )


def _key(setting: Setting) -> tuple[str, int]:
    return setting.model, setting.ps
