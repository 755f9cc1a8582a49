"""Tests that repeat others on another kind of thing: in `make test-all`, and not in `make test`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

extra = pytest.mark.extra


def with_extra(cases: Iterable[Any], *of_all: Any) -> list[Any]:
    """Return parameters for all cases, of which those in `of_all` are extra."""
    cases = list(cases)
    unknown = [case for case in of_all if case not in cases]
    assert not unknown, unknown
    return [_marked(case) if case in of_all else case for case in cases]


def _marked(case: Any) -> Any:
    return pytest.param(*case if isinstance(case, tuple) else [case], marks=extra)
