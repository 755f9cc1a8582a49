"""Checks of arguments that several functions share."""

from __future__ import annotations

import operator
from typing import Any


def checked_int(name: str, value: Any, least: int = 1, meaning: str = "") -> int:
    """Returns a number as an int: NumPy's integers count as such, bool does not.

    Args:
      name: of the argument, for messages.
      value: given for it.
      least: that it may be.
      meaning: what it counts, for messages.

    Raises:
      TypeError: if it is no integer.
      ValueError: if it is too small.
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
