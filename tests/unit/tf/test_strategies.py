"""tf_backup/_tf/strategies.py without a cluster."""

from __future__ import annotations

from typing import Any

from tests.unit.waiting_calls import in_thread
from tf_backup._tf import strategies


def test_run_is_allowed_in_the_thread_that_asks_for_it() -> None:
    extended: Any = strategies._Extended.__new__(strategies._Extended)

    def allowed() -> bool:
        return bool(extended._allow_run_without_coordinator)

    assert not allowed()
    with strategies.running_here():
        with strategies.running_here():
            assert allowed()
            assert not in_thread(allowed).result(timeout=60)
        assert allowed()
    assert not allowed()
