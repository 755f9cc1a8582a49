"""When a parameter server counts as lost, on a clock that requests and pauses advance."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from tf_backup.network import parameter_servers as module
from tf_backup.network.parameter_servers import Servers
from tf_backup.network.status import Status

Request = tuple[float, bool]  # How long it takes, in seconds, and whether it is answered.

ANSWERED, FAILED, FROZEN = (0.01, True), (module._ANSWER_S, False), (60.0, False)
TIMEOUT_S = 30.0
STATUS = Status("ps 0", 1)


class Server:
    """A server that answers requests as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.lost_at: float | None = None
        self._requests: Iterator[Request] = iter(())
        self._done = threading.Event()
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "Channel", lambda address: self)
        monkeypatch.setattr(module, "Connections", lambda address: self)

    def lost(self, *requests: Request, timeout_s: float = TIMEOUT_S) -> str | None:
        """Return how its loss is described after some requests, or None."""
        self._requests = iter(requests)
        servers = Servers(["host:1"], timeout_s)
        assert self._done.wait(60)
        servers.close()
        return servers.lost

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    # As a channel and as connections:

    def ask(self, timeout_s: float) -> Status | None:
        del timeout_s
        request = next(self._requests, None)
        if request is None:
            self._done.set()
            threading.Event().wait(0.01)
            return STATUS
        seconds, answered = request
        self.now += seconds
        return STATUS if answered else None

    def cut(self) -> None:
        self.lost_at = self.lost_at or self.now

    def close(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def test_a_silent_server_is_lost_after_the_timeout(server: Server) -> None:
    lost = server.lost(ANSWERED, *[FAILED] * 20)
    assert lost is not None
    assert "Parameter server 0 (host:1) has not answered for 3" in lost
    assert server.lost_at is not None
    assert TIMEOUT_S < server.lost_at < TIMEOUT_S + 5


def test_a_server_that_answers_now_and_then_is_not_lost(server: Server) -> None:
    assert server.lost(*([ANSWERED] + [FAILED] * 12) * 3) is None


@pytest.mark.parametrize(
    ("timeout_s", "requests"),
    [
        (TIMEOUT_S, [ANSWERED, FROZEN, ANSWERED]),
        (TIMEOUT_S, [ANSWERED, FAILED, FROZEN, FAILED, ANSWERED]),
        (1.0, [ANSWERED, FROZEN, ANSWERED]),
    ],
)
def test_no_server_is_lost_because_its_client_was_frozen(
    server: Server, timeout_s: float, requests: Sequence[Request]
) -> None:
    """A chief that had been frozen for a minute took servers that had answered it for lost."""
    assert server.lost(*requests, timeout_s=timeout_s) is None


@pytest.mark.parametrize(
    ("requests", "answers"),
    [
        ([ANSWERED], True),
        ([FAILED], False),
        ([FROZEN, ANSWERED], True),
        ([FROZEN, FAILED], False),
        ([FROZEN, FROZEN, FROZEN], False),
    ],
)
def test_after_a_failed_call_a_server_is_asked_again_if_its_client_was_frozen(
    monkeypatch: pytest.MonkeyPatch, requests: Sequence[Request], answers: bool
) -> None:
    left, clock = list(requests), SimpleNamespace(now=0.0)

    def ask(address: str, timeout_s: float) -> Status | None:
        assert (address, timeout_s) == ("host:1", module._ANSWER_S)
        seconds, answered = left.pop(0)
        clock.now += seconds
        return STATUS if answered else None

    monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    assert module._status("host:1", module._ANSWER_S) == (STATUS if answers else None)
    assert not left


def test_on_a_busy_machine_a_silent_server_is_lost_within_a_minute(server: Server) -> None:
    assert server.lost(ANSWERED, *[(8.0, False)] * 20) is not None
    assert server.lost_at is not None
    assert server.lost_at < 60
