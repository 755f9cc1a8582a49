"""Counts of an engine, which outlive it."""

from __future__ import annotations

from typing import Any

import pytest

from tf_backup.actors.accounts import Account


class FakeEngine:
    """An engine whose counts are a number."""

    living_workers = 3

    def __init__(self) -> None:
        self.count: Any = 1
        self.calls: list[str] = []

    def contributions(self) -> Any:
        return self.count

    def settle(self) -> None:
        self.calls.append("settle")

    def read_timeline(self) -> None:
        self.calls.append("read_timeline")


def test_counts_are_those_of_the_engine() -> None:
    engine = FakeEngine()
    account = Account(engine)
    assert account.read() == 1
    engine.count = 2
    assert account.read() == 2
    assert account.living_workers() == 3


@pytest.mark.parametrize("read", [False, True])
def test_counts_stay_after_the_source_is_gone(read: bool) -> None:
    engine = FakeEngine()
    account = Account(engine)
    engine.count = 2
    if read:
        account.read()
    del engine
    assert account.read() == (2 if read else 1)
    assert account.living_workers() is None
    account.settle()
    account.read_timeline()


def test_calls_reach_the_engine() -> None:
    engine = FakeEngine()
    account = Account(engine)
    account.settle()
    account.read_timeline()
    assert engine.calls == ["settle", "read_timeline"]
