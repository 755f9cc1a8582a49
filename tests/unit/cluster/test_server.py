"""What ends the process of a worker or parameter server, and what does not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from tf_backup._tf import runtime
from tf_backup.cluster import server


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The sockets of a process that listens for its end, to receive and to send."""
    changed = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in changed}
    monkeypatch.setattr(runtime, "at_dismissal", lambda end: None)
    wakeup = signal.set_wakeup_fd(-1)
    ends, tell = server._listen()
    yield ends, tell
    signal.set_wakeup_fd(wakeup)
    for number, handler in before.items():
        signal.signal(number, handler)
    ends.close()
    tell.close()


def asked(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], bool]) -> None:
    """Let `answer` say whether the chief is there, and ask often."""
    monkeypatch.setattr(server, "_CHIEF_POLL_S", 0.02)
    monkeypatch.setattr(server, "accepts", lambda chief: answer())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_ask_it_to_end_end_it(
    sockets: tuple[socket.socket, socket.socket], number: int
) -> None:
    os.kill(os.getpid(), number)
    assert server._wait(sockets[0], "chief:1", None) == number


@pytest.mark.parametrize("code", [server._DISMISSED, server._REFUSED, server._FAILED])
def test_its_own_codes_end_it(sockets: tuple[socket.socket, socket.socket], code: int) -> None:
    sockets[1].send(bytes([code]))
    assert server._wait(sockets[0], "chief:1", None) == code


def test_a_signal_with_a_handler_of_the_user_does_not_end_it(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose script had a handler for SIGUSR1 exited at this signal, with status 0."""
    handled: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    asked(monkeypatch, lambda: not handled or bool(sockets[1].send(bytes([server._FAILED]))))
    assert server._wait(sockets[0], "chief:1", 60.0) == server._FAILED
    assert handled == [signal.SIGUSR1]


def test_such_signals_do_not_keep_it_from_missing_its_chief(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)

    def absent() -> bool:
        os.kill(os.getpid(), signal.SIGUSR1)
        return False

    asked(monkeypatch, absent)
    assert server._wait(sockets[0], "chief:1", 0.1) is None
