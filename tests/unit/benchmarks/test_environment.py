"""Environment that a benchmark's results are recorded with."""

from __future__ import annotations

import dataclasses

import pytest

from scripts.benchmarks.environment import Environment
from scripts.training import memory


def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_gib", lambda: 3.9)
    here = Environment.here(intra_op_threads=2)
    assert here.memory_gib == 4
    assert ", 4 GiB; 2 intra-op threads in every process; " in str(here)


def test_everything_is_known() -> None:
    known = dataclasses.asdict(Environment.here(intra_op_threads=1))
    assert all(known.values())
    assert known["cores"] >= 1 and known["memory_gib"] >= 1
