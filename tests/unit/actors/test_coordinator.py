"""The chief's connection: its lease, its calls and its errors, with one device as the server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from tests.cluster.processes import wait_until
from tf_backup._tf.named import Name
from tf_backup.actors import coordinator as module
from tf_backup.actors.coordinator import Coordinator
from tf_backup.errors import AnotherChief, ParameterServerLost
from tf_backup.network import status
from tf_backup.servers import board
from tf_backup.servers.board import Board

pytestmark = pytest.mark.slow  # Computes for seconds.

ADDRESSES = {"chief": ["me:1"], "worker": ["a:1", "b:1"], "ps": ["server:1"]}


class Servers:
    """A watch over servers that are lost when the test says so."""

    lost: str | None = None

    def __init__(self) -> None:
        self.forgotten = 0

    def repeat_signal(self) -> None:
        pass

    def forget_signal(self) -> None:
        self.forgotten += 1

    def look(self) -> None:
        pass

    def close(self) -> None:
        pass


class Chiefs:
    """Starts chiefs on the same server, and ends them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.cleared: list[str] = []

    def start(self, local: bool = False) -> Coordinator:
        servers: Any = Servers()
        started = Coordinator(ADDRESSES, servers, worker_timeout_s=20.0, local=local)
        self._stack.callback(started.close)
        return started


@pytest.fixture
def chiefs(one_device: Name, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chiefs]:
    monkeypatch.setattr(board, "_NAME", one_device)
    monkeypatch.setattr(module, "LEASE_S", 1.0)
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    monkeypatch.setattr(module, "_BEAT_S", 0.1)
    with contextlib.ExitStack() as stack:
        chiefs = Chiefs(stack)

        def clear(address: str, container: str) -> bool:
            chiefs.cleared.append(container)
            return True

        monkeypatch.setattr(status, "clear", clear)
        yield chiefs


def test_workers_read_what_is_announced(chiefs: Chiefs) -> None:
    chief = chiefs.start()
    worker = Board(2)
    assert worker.notice()["job"] is None
    assert worker.notice()["workers"] == 2
    numbers = [chief.announce({"kind": "train"}), chief.announce({"kind": "evaluate"})]
    assert numbers[1] > numbers[0]
    assert worker.notice()["job"] == {"number": numbers[1], "kind": "evaluate"}
    chief.announce(None)
    assert worker.notice()["job"] is None


def test_a_second_chief_is_refused_while_the_first_is_alive(chiefs: Chiefs) -> None:
    chiefs.start()
    with pytest.raises(AnotherChief, match="have a chief already: me:1, process"):
        chiefs.start()


def test_the_next_chief_clears_what_the_last_one_left(chiefs: Chiefs) -> None:
    first = chiefs.start()
    first.close()
    second = chiefs.start()
    assert (first.generation, second.generation) == (1, 2)
    assert chiefs.cleared == [first.container]
    assert first.container != second.container


def test_a_chief_that_was_superseded_is_told(chiefs: Chiefs) -> None:
    chief = chiefs.start()
    other = Board(2)
    # Until no heartbeat of the chief comes in between.
    wait_until(lambda: other.take(other.lease(), {"chief": "you:2"}))
    with pytest.raises(AnotherChief, match="has taken over: you:2"):
        chief.call(threading.Event().wait)


def test_errors_are_of_the_current_job(chiefs: Chiefs) -> None:
    chief, worker = chiefs.start(), Board(2)
    old, new = chief.announce({}), chief.announce({})
    for job, message in ((old, "old"), (new, "new")):
        worker.tell({"worker": 1, "job": job, "type": "ValueError", "message": message})
    chief.call(lambda: None)
    wait_until(chief.worker_errors)
    assert [error["message"] for error in chief.worker_errors()] == ["new"]
    chief.announce({})
    assert chief.worker_errors() == []


def test_who_does_not_leave_is_named(chiefs: Chiefs) -> None:
    chief, worker = chiefs.start(), Board(2)
    worker.leave(1, worker.register(1))
    assert chief.dismiss(patience_s=1.0) == [0]
    assert worker.notice()["dismissed"]


def test_a_call_returns_and_raises_as_its_function_does(chiefs: Chiefs) -> None:
    chief = chiefs.start()
    assert chief.call(lambda: 5) == 5

    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        chief.call(fail)
    with pytest.raises(KeyError, match="mine"):
        chief.call(threading.Event().wait, meanwhile=fail)


@pytest.mark.parametrize("local", [False, True])
def test_no_call_outlives_a_lost_server(chiefs: Chiefs, local: bool) -> None:
    chief = chiefs.start(local)
    chief.servers.lost = "Server 0 does not answer."
    remedy = "" if local else r" Start it again\."  # Nobody can start a local cluster's server.
    said = rf"does not answer\.{remedy} If this script saves checkpoints, it goes on from the"
    with pytest.raises(ParameterServerLost, match=said):
        chief.call(threading.Event().wait)


def test_signals_are_forgotten_before_and_after_the_outermost_call(chiefs: Chiefs) -> None:
    chief: Any = chiefs.start()
    with pytest.raises(KeyboardInterrupt), chief.repeating_signals():
        assert chief.servers.forgotten == 1
        with chief.repeating_signals():
            pass
        assert chief.servers.forgotten == 1
        raise KeyboardInterrupt
    assert chief.servers.forgotten == 2


def test_tensorflows_errors_are_told_plainly(chiefs: Chiefs) -> None:
    chief = chiefs.start()
    with pytest.raises(tf.errors.UnavailableError), chief.told_plainly():
        raise tf.errors.UnavailableError(None, None, "a hiccup")
    with pytest.raises(ValueError, match="made before the strategy"), chief.told_plainly():
        raise tf.errors.InvalidArgumentError(None, None, "no /job:localhost/replica:0/task:0")
    with pytest.raises(tf.errors.InvalidArgumentError), chief.told_plainly():
        raise tf.errors.InvalidArgumentError(None, None, "the model's own")
    chief.servers.lost = "Server 0 is gone."
    with pytest.raises(ParameterServerLost, match="is gone"), chief.told_plainly():
        raise tf.errors.UnavailableError(None, None, "connection refused")


def test_a_strategy_has_its_own_coordinator() -> None:
    class Strategy:
        pass

    strategy, mine = Strategy(), SimpleNamespace()
    with pytest.raises(ValueError, match="was not made by tf_backup"):
        module.of(strategy)
    module.register(strategy, mine)  # type: ignore[arg-type]
    assert module.of(strategy) is mine
    with pytest.raises(ValueError, match="was not made by tf_backup"):
        module.of(Strategy())
