"""A worker's agent, with one device as the server, and without a program to run."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
import tensorflow as tf

from tests.cluster.processes import wait_until
from tests.unit.waiting_calls import in_thread
from tf_backup._tf.named import Name
from tf_backup.actors import agent as module
from tf_backup.actors.agent import Agent, Dismissed
from tf_backup.servers import board
from tf_backup.servers.board import FREE, LEFT, Board, Lease

pytestmark = pytest.mark.slow  # Computes for seconds.

ADDRESSES = {"chief": ["c:1"], "worker": ["a:1", "b:1"], "ps": ["server:1"]}
TIMEOUT_S = 60


class Servers:
    """A watch over servers that are there."""

    lost = None

    def __init__(self, addresses: list[str], timeout_s: float) -> None:
        pass

    def look(self) -> None:
        pass


class Chief:
    """The chief's side of the board."""

    def __init__(self) -> None:
        self.board = Board(2)
        self.notice: dict[str, Any] = {
            "chief": "c:1",
            "tensorflow": tf.__version__,
            "workers": 2,
            "dismissed": False,
            "job": None,
        }

    def take(self, **changes: Any) -> None:
        self.notice.update(changes)
        assert self.board.take(Lease(0, FREE), self.notice) == 1

    def write(self, **changes: Any) -> None:
        self.notice.update(changes)
        self.board.write(self.notice)


@pytest.fixture
def chief(one_device: Name, monkeypatch: pytest.MonkeyPatch) -> Chief:
    """The chief of a cluster that an agent joins without a network."""
    monkeypatch.setattr(board, "_NAME", one_device)
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(module, "Servers", Servers)
    monkeypatch.setattr(module, "connect", lambda *args: None)
    monkeypatch.setattr(module.arrivals, "present", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(module.arrivals, "wait_for", lambda addresses: None)
    return Chief()


def test_it_works_until_it_is_dismissed(chief: Chief) -> None:
    work = in_thread(Agent(ADDRESSES, 1).work)  # Before there is a chief.
    chief.take()
    wait_until(lambda: chief.board.look(1).beats[1])
    chief.write(dismissed=True)
    with pytest.raises(Dismissed):
        work.result(TIMEOUT_S)
    assert chief.board.look(1).lives.tolist() == [0, LEFT]


def test_a_life_that_was_given_up_is_followed_by_another(chief: Chief) -> None:
    chief.take()
    work = in_thread(Agent(ADDRESSES, 1).work)
    wait_until(lambda: chief.board.look(1).lives[1])
    first = chief.board.look(1).lives[1]
    taken = chief.board.register(1)  # As another process of this worker would.
    wait_until(lambda: chief.board.look(1).lives[1] > taken)
    chief.write(dismissed=True)
    with pytest.raises(Dismissed):
        work.result(TIMEOUT_S)
    assert taken > first


def failing_beats(monkeypatch: pytest.MonkeyPatch, first: int, last: float) -> list[int]:
    """Let the heartbeats from `first` to `last` fail; return a list that grows with each one."""
    sent: list[int] = []
    beat = Board.beat

    def beat_or_fail(self: Board, worker: int, life: int) -> bool:
        sent.append(life)
        if first <= len(sent) <= last:
            raise tf.errors.UnavailableError(None, None, "Connection reset by peer")
        return beat(self, worker, life)

    monkeypatch.setattr(Board, "beat", beat_or_fail)
    return sent


def test_heartbeats_go_on_after_some_have_failed(
    chief: Chief, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reset connection a worker sent no heartbeats any more, and was expelled for ever."""
    chief.take()
    sent = failing_beats(monkeypatch, first=2, last=3)
    work = in_thread(Agent(ADDRESSES, 1).work)
    wait_until(lambda: chief.board.look(1).beats[1] >= 2, timeout_s=20)
    life = chief.board.look(1).lives[1]
    assert set(sent) == {life}  # It is still the first one.
    chief.write(dismissed=True)
    with pytest.raises(Dismissed):
        work.result(TIMEOUT_S)


def test_a_worker_starts_anew_if_all_its_heartbeats_fail(
    chief: Chief, monkeypatch: pytest.MonkeyPatch
) -> None:
    chief.take()
    sent = failing_beats(monkeypatch, first=2, last=float("inf"))
    anew, seen = threading.Event(), threading.Event()

    def start_anew() -> None:
        anew.set()
        seen.wait(TIMEOUT_S)  # The real one does not return.

    monkeypatch.setattr(module, "_SERVER_TIMEOUT_S", 0.2)  # Four heartbeats.
    monkeypatch.setattr(module, "start_anew", start_anew)
    work = in_thread(Agent(ADDRESSES, 1).work)
    assert anew.wait(20)
    assert len(sent) == 6
    seen.set()
    chief.write(dismissed=True)
    with pytest.raises(Dismissed):
        work.result(TIMEOUT_S)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensorflow": "2.1.0"}, r"its chief \(c:1\) has 2\.1\.0: graphs of one may not run"),
        ({"workers": 5}, "has 2 workers, but that of its chief .* has 5: give all tasks the same"),
    ],
)
def test_another_cluster_is_refused_and_reported(
    chief: Chief, changes: dict[str, Any], message: str
) -> None:
    chief.take(**changes)
    with pytest.raises(ValueError, match=message):
        Agent(ADDRESSES, 1).work()
    (error,) = chief.board.look(1).errors
    assert (error["worker"], error["job"], error["type"]) == (1, None, "ValueError")


def test_a_job_that_fails_is_reported_to_the_chief(
    chief: Chief, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Program:
        def __init__(self, spec: Any) -> None:
            pass

        def train(self, worker: int, life: int, job: dict[str, Any]) -> None:
            raise tf.errors.InvalidArgumentError(None, None, f"worker {worker} cannot")

    monkeypatch.setattr(module, "_Program", Program)
    program = {"attributes": {"shared_name": "program"}}
    chief.take(job={"number": 3, "kind": "train", "program": program, "programs": []})
    work = in_thread(Agent(ADDRESSES, 1).work)
    errors: list[Any] = []
    wait_until(lambda: errors.extend(chief.board.look(1).errors) or errors)
    chief.write(dismissed=True)  # The worker goes on after such an error.
    with pytest.raises(Dismissed):
        work.result(TIMEOUT_S)
    kind = "InvalidArgumentError"
    assert errors == [{"worker": 1, "job": 3, "type": kind, "message": "worker 1 cannot"}]


def test_the_end_of_a_life_cancels_what_it_waits_for() -> None:
    life = module._Life(7)
    queue = tf.queue.FIFOQueue(1, [tf.int64], [[]])
    take = tf.function(queue.dequeue)
    began = threading.Event()

    def wait() -> None:
        began.set()
        take()

    call = in_thread(life.call, wait)
    began.wait(TIMEOUT_S)
    life.end()
    assert isinstance(call.exception(TIMEOUT_S), tf.errors.CancelledError)
    life.call(pytest.fail, "a call after the end")
