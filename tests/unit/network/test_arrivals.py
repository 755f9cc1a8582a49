from __future__ import annotations

import logging
import socket
import threading
from types import SimpleNamespace

import pytest

from tf_backup.errors import ClusterError
from tf_backup.network import arrivals, watch
from tf_backup.network.status import Status


class Street:
    """Tasks that answer from a given second on; each sleep takes one second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, opens: dict[str, int]) -> None:
        self.now = 0.0
        self.looks: list[str] = []
        monkeypatch.setattr(arrivals, "ask", self._look)
        monkeypatch.setattr(arrivals, "is_ready", lambda address: True)
        monkeypatch.setattr(arrivals, "accepts", lambda address: False)
        # Only in these modules: other threads read the clock as well.
        clock = SimpleNamespace(sleep=self._sleep, monotonic=lambda: self.now)
        monkeypatch.setattr(arrivals, "time", clock)
        monkeypatch.setattr(watch, "time", clock)
        self._opens = opens

    def _look(self, address: str) -> Status | None:
        self.looks.append(address)
        index = list(self._opens).index(address)
        return Status(f"ps {index}", 7) if self.now >= self._opens[address] else None

    def _sleep(self, seconds: float) -> None:
        assert seconds == arrivals.POLL_S
        self.now += 1.0


def test_who_is_there_is_not_asked_again(monkeypatch, caplog):
    street = Street(monkeypatch, {"a:1": 0, "b:2": 2, "c:3": 0})
    arrivals.wait_for(["a:1", "b:2", "c:3"])
    assert street.looks == ["a:1", "b:2", "c:3", "b:2", "b:2"]
    assert not caplog.records


def test_it_says_who_is_missing(monkeypatch, caplog):
    Street(monkeypatch, {"a:1": 0, "b:2": 25, "c:3": 15})
    with caplog.at_level(logging.WARNING):
        arrivals.wait_for(["a:1", "b:2", "c:3"])
    assert [record.message for record in caplog.records] == [
        "Waiting for ps 1 (b:2), ps 2 (c:3) since 10 s.",
        "Waiting for ps 1 (b:2) since 20 s.",
    ]


def test_it_does_not_name_hundreds(monkeypatch, caplog):
    tasks = [f"host{index}:1" for index in range(200)]
    Street(monkeypatch, dict.fromkeys(tasks, 11))
    with caplog.at_level(logging.WARNING):
        arrivals.wait_for(tasks)
    (record,) = caplog.records
    assert record.message.startswith("Waiting for ps 0 (host0:1), ps 1 (host1:1)")
    assert record.message.endswith("ps 4 (host4:1) and 195 more since 10 s.")


def test_it_does_not_wait_for_ever(monkeypatch):
    Street(monkeypatch, {"a:1": 0, "b:2": 10**9})
    with pytest.raises(ClusterError, match=r"after 1801 s: there is no ps 1 \(b:2\)\. Start"):
        arrivals.wait_for(["a:1", "b:2"])


def test_another_program_in_the_place_of_a_server_is_told_of(monkeypatch, caplog):
    Street(monkeypatch, {"a:1": 11})
    monkeypatch.setattr(arrivals, "accepts", lambda address: True)
    with caplog.at_level(logging.WARNING):
        arrivals.wait_for(["a:1"])
    assert "Something listens at a:1, but does not answer as a server of tf_backup" in caplog.text


def test_another_task_in_the_place_of_a_server_is_refused(monkeypatch):
    monkeypatch.setattr(arrivals, "ask", lambda address: Status("worker 3", 7))
    with pytest.raises(ClusterError, match="The server at a:1 is worker 3, but it should be ps 0"):
        arrivals.wait_for(["a:1"])


def test_it_waits_and_then_ends(monkeypatch):
    answers, ready = threading.Event(), threading.Event()
    status = Status("ps 0", 7)
    monkeypatch.setattr(arrivals, "ask", lambda address: status if answers.is_set() else None)
    monkeypatch.setattr(arrivals, "is_ready", lambda address: ready.is_set())
    monkeypatch.setattr(arrivals, "accepts", lambda address: False)
    monkeypatch.setattr(arrivals, "POLL_S", 0.01)
    waiting = threading.Thread(target=arrivals.wait_for, args=(["a:1"],), daemon=True)
    waiting.start()
    for event in (answers, ready):
        waiting.join(0.1)
        assert waiting.is_alive()
        event.set()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_chief_that_waits_can_be_seen():
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    with arrivals.present(f"chief:{port}"):
        for _ in range(300):  # More than a socket's queue holds: 200 workers look twice a minute.
            # Retried, since the queue may be full until a slow thread empties it.
            assert any(arrivals.accepts(f"localhost:{port}") for _ in range(5))
        with (
            pytest.raises(ClusterError, match=f"Cannot listen at port {port}, which TF_CONFIG"),
            arrivals.present(f"chief:{port}"),
        ):
            pass
    assert not arrivals.accepts(f"localhost:{port}")
