"""Mark of tests that repeat others with another model, optimizer or fault.

Only `make test-all` runs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

extra = pytest.mark.extra


def with_extra(cases: Iterable[Any], *extras: Any) -> list[Any]:
    """Return the cases as parameters, with those in `extras` marked as extra."""
    cases = list(cases)
    unknown = [case for case in extras if case not in cases]
    assert not unknown, unknown
    return [_marked(case) if case in extras else case for case in cases]


def _marked(case: Any) -> Any:
    return pytest.param(*case if isinstance(case, tuple) else [case], marks=extra)
