"""tf_backup/cluster/worker_restarts.py: which workers are started again, and how often."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tf_backup.cluster import worker_restarts
from tf_backup.cluster.worker_restarts import WorkerRestarts
from tf_backup.errors import ClusterError


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_restarts, "_POLL_S", 0.001)


def looks(limit: int, start: Callable[[int], None], count: int = 20) -> None:
    """Let it look so often at a worker 1 that has ended each time, and then stop it."""
    done = threading.Event()
    left = [count]

    def ended() -> list[int]:
        left[0] -= 1
        if left[0] <= 0:
            done.set()
        return [1]

    restarts = WorkerRestarts(limit, ended, start)
    assert done.wait(60)
    restarts.stop()


def test_it_gives_a_worker_up_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    looks(3, started.append)
    assert started == [1, 1, 1]


def test_one_that_ran_for_long_has_all_its_restarts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_restarts, "_HEALTHY_S", -1.0)  # Each runs for longer.
    started: list[int] = []
    looks(1, started.append)
    assert len(started) >= 10


def test_what_cannot_be_started_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def fail(worker: int) -> None:
        tried.append(worker)
        raise ClusterError("The fork server has ended.")

    looks(3, fail)
    assert tried == [1]
    assert "Worker 1 cannot be started again: The fork server has ended." in caplog.text


def test_none_are_wanted() -> None:
    restarts = WorkerRestarts(0, lambda: [1], lambda worker: pytest.fail("It was started."))
    restarts.stop()
