"""Checks of arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tf_backup.checks import checked_int, checked_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_integers_of_all_kinds_are_ints(value: Any) -> None:
    found = checked_int("replicas", value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [3.0, np.float32(3), "3", None, True, np.array([3, 4])])
def test_what_is_no_integer(value: Any) -> None:
    with pytest.raises(TypeError) as error:
        checked_int("replicas", value)
    assert str(error.value) == f"replicas must be an int, not {value!r} ({type(value).__name__})."


def test_too_small() -> None:
    assert checked_int("backups", np.int32(0), least=0) == 0
    with pytest.raises(ValueError, match=r"^steps is 0; it must be at least 1 \(updates\)\.$"):
        checked_int("steps", np.int64(0), meaning=" (updates)")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_numbers_of_all_kinds_are_floats(value: Any) -> None:
    found = checked_number("mean", value)
    assert found == 2.0
    assert type(found) is float


@pytest.mark.parametrize("value", ["2", None, True, np.array([2.0, 3.0])])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^mean must be a number, not "):
        checked_number("mean", value)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_out_of_range(value: float) -> None:
    message = f"^mean is {value}; it must be at least 0 and finite\\.$"
    with pytest.raises(ValueError, match=message):
        checked_number("mean", value)


def test_zero_is_not_positive() -> None:
    assert checked_number("mean", 0) == 0.0
    with pytest.raises(ValueError, match=r"^mean is 0\.0; it must be above 0 and finite\.$"):
        checked_number("mean", 0, positive=True)
