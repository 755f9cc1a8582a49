"""Numbers with their units, as text for people."""

from __future__ import annotations

import math
from typing import NamedTuple


class Unit(NamedTuple):
    """Unit of time on an axis."""

    name: str
    seconds: float


_UNITS = (Unit("µs", 1e-6), Unit("ms", 1e-3), Unit("s", 1.0), Unit("min", 60.0), Unit("h", 3600.0))
_DIGITS = 3
_SPACE = "\N{NO-BREAK SPACE}"  # Keeps a number and its unit on one line.
NOTHING = "\N{EN DASH}"  # For a number that does not exist.


def unit_for(longest_s: float, least: float = 2.0) -> Unit:
    """Return the unit for times up to `longest_s`.

    Args:
      longest_s: the longest time, in seconds.
      least: how many units it is at least; 2, so that an axis has a tick or more.
    """
    fitting = [unit for unit in _UNITS if longest_s >= least * unit.seconds]
    return fitting[-1] if fitting else _UNITS[0]


def number(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    digits = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: int, noun: str = "") -> str:
    """Return a whole number, with its noun in the singular or plural."""
    name = noun if value == 1 else f"{noun}s"
    return f"{value:,}" + (f" {name}" if noun else "")


def percent(share: float) -> str:
    """Return a share as a percentage; a small one is not rounded to zero."""
    if not math.isfinite(share):
        return NOTHING
    if 0 < share < 0.001:
        return f"under 0.1{_SPACE}%"
    if 0.999 < share < 1:
        return f"over 99.9{_SPACE}%"
    return f"{100 * share:.1f}{_SPACE}%"


def seconds(value: float) -> str:
    """Return a duration in the unit that suits it."""
    if not math.isfinite(value):
        return NOTHING
    unit = _UNITS[2] if value == 0 else unit_for(abs(value), least=1.0)
    return f"{number(value / unit.seconds)}{_SPACE}{unit.name}"


def listed(names: list[str]) -> str:
    """Return names as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
