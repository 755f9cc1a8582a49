"""Shared checks of function arguments."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from typing import Any


def checked_int(name: str, value: Any, least: int = 1, meaning: str = "") -> int:
    """Return `value` as an int. NumPy integers are accepted, bools are not.

    Args:
      name: name of the argument, for error messages.
      value: value of the argument.
      least: smallest allowed value.
      meaning: what the argument counts, for error messages.

    Raises:
      TypeError: if `value` is not an integer.
      ValueError: if `value` is below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r} ({type(value).__name__}).")
    if number < least:
        raise ValueError(f"{name} is {number}; it must be at least {least}{meaning}.")
    return number


def checked_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return a value that is one of some strings.

    Raises:
      ValueError: if it is none of them.
    """
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{name} is {value!r}; it must be one of {known}.")
    return str(value)


def checked_number(name: str, value: Any, *, positive: bool = False) -> float:
    """Return a finite number that is at least 0, or above 0 if it must be `positive`.

    Raises:
      TypeError: if `value` is not a number.
      ValueError: if it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r} ({type(value).__name__}).")
    number = float(value)
    if not (number > 0 if positive else number >= 0) or number == float("inf"):
        rule = "above 0" if positive else "at least 0"
        raise ValueError(f"{name} is {number}; it must be {rule} and finite.")
    return number
