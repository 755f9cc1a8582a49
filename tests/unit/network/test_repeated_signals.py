"""Signals whose exceptions are lost are repeated, and no others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.cluster.processes import wait_until
from tf_backup.network import parameter_servers as module
from tf_backup.network.parameter_servers import Servers


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that a handler got whose exceptions are always lost."""
    monkeypatch.setattr(module, "_SIGNAL_GRACE_S", 0.0)
    found: list[int] = []

    def handler(number: int, frame: object) -> None:
        found.append(number)

    handler.raises = True  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGTERM, handler)
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def servers() -> Iterator[Servers]:
    watched = Servers([], timeout_s=30.0, watch_signals=True)
    yield watched
    watched.close()


def send(servers: Servers) -> None:
    """Send a signal, and wait until the watch has heard of it."""
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: servers._signal is not None)


def test_a_signal_is_repeated_once(handled: list[int], servers: Servers) -> None:
    send(servers)
    assert len(handled) == 1
    for _ in range(2):
        servers.repeat_signal()
        assert handled == [signal.SIGTERM, signal.SIGTERM]


def test_one_that_was_forgotten_is_not(handled: list[int], servers: Servers) -> None:
    send(servers)
    servers.forget_signal()
    servers.repeat_signal()
    # The watch may hear of a signal a moment after its exception has ended the call.
    servers.forget_signal()
    send(servers)
    servers.repeat_signal()
    assert len(handled) == 2


def test_one_that_comes_later_is(
    handled: list[int], servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.forget_signal()
    monkeypatch.setattr(servers, "_forgotten", time.monotonic() - module._NOTICE_S)
    send(servers)
    servers.repeat_signal()
    assert len(handled) == 2
