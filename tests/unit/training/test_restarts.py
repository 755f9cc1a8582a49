"""scripts/training/restarts.py: how often a command begins again."""

from __future__ import annotations

import os
from typing import Any

import pytest

from scripts.training import restarts
from scripts.training.restarts import Restarts


class Begun(Exception):
    """In the place of the new process."""


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments of the processes that were begun."""
    begun: list[dict[str, str]] = []

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        begun.append(environment)
        raise Begun

    monkeypatch.delenv(restarts._VARIABLE, raising=False)
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr("signal.pthread_sigmask", lambda how, signals: None)
    return begun


def attempts(
    monkeypatch: pytest.MonkeyPatch, environments: list[dict[str, str]], updates: list[int]
) -> int:
    """Returns how often a command begins again whose checkpoints have so many updates."""
    for count, made in enumerate(updates):
        try:
            Restarts(2).restart("Lost.", made)
        except Begun:
            monkeypatch.setenv(restarts._VARIABLE, environments[-1][restarts._VARIABLE])
        else:
            return count
    return len(updates)


@pytest.mark.parametrize(
    ("updates", "begun"),
    [
        ([0, 0, 0, 0], 2),
        ([10, 10, 10], 2),
        ([10, 10, 20, 20, 20], 4),  # Progress: it counts anew.
        ([10, 20, 30, 40, 50], 5),
        ([20, 10, 10], 2),  # The newest checkpoint was damaged: that is no progress.
    ],
)
def test_restarts_without_progress_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
    environments: list[dict[str, str]],
    updates: list[int],
    begun: int,
) -> None:
    assert attempts(monkeypatch, environments, updates) == begun


def test_it_says_why_and_from_where(
    environments: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Begun):
        Restarts(3).restart("ps 0 is lost.", 40)
    (record,) = caplog.records
    assert record.getMessage() == (
        "ps 0 is lost.\nStarting again from the checkpoint of 40 updates (restart 1 of 3 without "
        "a new checkpoint)."
    )


def test_none_are_wanted(environments: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    Restarts(0).restart("ps 0 is lost.", 40)
    assert not environments and not caplog.records
