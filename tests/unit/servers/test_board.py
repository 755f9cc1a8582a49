"""The board: the chief's lease, the workers' lives, and what they tell each other."""

from __future__ import annotations

import pytest

from tests.unit.waiting_calls import in_thread, waits
from tf_backup._tf.named import Name
from tf_backup.servers import board
from tf_backup.servers.board import FREE, LEFT, NEVER, Board, Lease

pytestmark = pytest.mark.slow  # Computes for seconds.

WORKERS = 3


@pytest.fixture(autouse=True)
def empty(one_device: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every board of a test be the same new one."""
    monkeypatch.setattr(board, "_NAME", one_device)


@pytest.fixture
def small(empty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the board's queues have room for little."""
    monkeypatch.setattr(board, "_ERRORS", 4)
    monkeypatch.setattr(board, "_CALLS", 4)


@pytest.fixture
def chief() -> Board:
    """A board with a chief of generation 1."""
    chief = Board(WORKERS)
    assert chief.take(chief.lease(), {"job": None}) == 1
    return chief


def test_there_is_no_chief_at_first() -> None:
    worker = Board(WORKERS)
    assert not worker.exists
    assert worker.lease() == Lease(0, FREE)


def test_a_worker_reads_what_the_chief_writes(chief: Board) -> None:
    worker = Board(WORKERS)
    assert worker.exists
    assert worker.notice() == {"job": None}
    notice = {"job": {"number": 3, "text": 'ä"\n'}, "dismissed": False}
    chief.write(notice)
    assert worker.notice() == notice


def test_of_two_chiefs_one_gets_the_lease() -> None:
    one, other = Board(WORKERS), Board(WORKERS)
    seen = one.lease()
    assert one.take(seen, {"chief": "one"}) == 1
    assert other.take(seen, {"chief": "other"}) == 0
    assert other.notice() == {"chief": "one"}


def test_a_chief_that_is_alive_cannot_be_replaced_by_mistake(chief: Board) -> None:
    seen = chief.lease()
    chief.look(1)
    assert chief.lease() == Lease(1, seen.beats + 1)
    assert Board(WORKERS).take(seen, {}) == 0


def test_the_next_chief_starts_with_an_empty_board(chief: Board) -> None:
    worker = Board(WORKERS)
    worker.register(1)
    worker.tell({"message": "old"})
    chief.free(1)
    assert chief.lease() == Lease(1, FREE)
    following = Board(WORKERS)
    assert following.take(following.lease(), {"job": None}) == 2
    look = following.look(2)
    assert look.lives.tolist() == [NEVER] * WORKERS
    assert look.errors == []
    assert worker.register(1) == 2  # Lives have numbers of their own for all time.


def test_a_chief_that_was_replaced_changes_nothing(chief: Board) -> None:
    Board(WORKERS).take(chief.lease(), {})
    chief.free(1)
    look = chief.look(1)
    assert look.lease == Lease(2, 0)


def test_lives_and_heartbeats_are_counted(chief: Board) -> None:
    worker = Board(WORKERS)
    lives = [worker.register(index) for index in (2, 0)]
    assert lives == [1, 2]
    assert worker.beat(2, 1)
    assert worker.beat(2, 1)
    look = chief.look(1)
    assert look.lives.tolist() == [2, NEVER, 1]
    assert look.beats.tolist() == [0, 0, 2]


def test_an_earlier_life_is_told_that_it_is_over(chief: Board) -> None:
    worker = Board(WORKERS)
    old, new = worker.register(1), worker.register(1)
    assert not worker.beat(1, old)
    worker.leave(1, old)
    look = chief.look(1)
    assert (look.lives[1], look.beats[1]) == (new, 0)


def test_who_leaves_is_known_to_have_left(chief: Board) -> None:
    worker = Board(WORKERS)
    worker.leave(1, worker.register(1))
    assert chief.look(1).lives.tolist() == [NEVER, LEFT, NEVER]


def test_the_chief_reads_each_error_once(chief: Board) -> None:
    worker = Board(WORKERS)
    errors = [{"worker": 2, "message": "ä"}, {"worker": 0, "message": "b"}]
    for error in errors:
        worker.tell(error)
    assert chief.look(1).errors == errors
    assert chief.look(1).errors == []


def test_errors_that_nobody_reads_do_not_block(small: None, chief: Board) -> None:
    worker = Board(WORKERS)
    for number in range(8):
        worker.tell({"number": number})
    assert [error["number"] for error in chief.look(1).errors] == [0, 1]


def test_a_worker_waits_until_the_chief_writes(chief: Board) -> None:
    worker = Board(WORKERS)
    life = worker.register(1)
    called = in_thread(worker.wait, 1, life)
    assert waits(called)
    chief.write({"job": {"number": 1}})
    called.result(timeout=60)


def test_the_call_of_a_later_life_is_left_to_it(chief: Board) -> None:
    worker = Board(WORKERS)
    old, new = worker.register(1), worker.register(1)
    chief.write({"job": None})
    worker.wait(1, old)
    worker.wait(1, new)


def test_unread_calls_do_not_block_the_chief(small: None, chief: Board) -> None:
    for number in range(8):
        chief.write({"number": number})
    assert chief.notice() == {"number": 7}
