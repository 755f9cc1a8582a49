"""Leases of workers, on a clock that the test advances."""

from __future__ import annotations

import numpy as np

from tf_backup.rules.members import HEARTBEAT_S, Members


class Workers:
    """Three workers as seen on the board, and the chief's clock."""

    def __init__(self, timeout_s: float) -> None:
        self.now = 100.0
        self.lives, self.beats = np.zeros([3], np.int64), np.zeros([3], np.int64)
        self.members = Members(3, timeout_s, clock=lambda: self.now)

    def look(self, *beating: int) -> None:
        for worker in beating:
            self.beats[worker] += 1
        self.members.update(self.lives, self.beats)

    def wait(self, seconds: float) -> None:
        """Lets the chief look twice a second, and see nothing new."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(self.now + 0.5, end)
            self.look()


def test_nobody_lives_at_first():
    workers = Workers(10.0)
    workers.look()
    assert workers.members.lives == [0, 0, 0]
    assert workers.members.missing == [0, 1, 2]
    assert workers.members.ever == [False] * 3


def test_who_registers_lives_until_its_lease_ends():
    workers = Workers(10.0)
    workers.lives[1] = 5
    workers.look(1)
    workers.wait(9.9)
    assert workers.members.lives == [0, 5, 0]
    workers.look()
    assert workers.members.living == 1
    workers.wait(0.2)
    assert workers.members.lives == [0, 0, 0]
    assert workers.members.ever == [False, True, False]


def test_a_sign_of_life_renews_the_lease_by_the_chiefs_clock():
    workers = Workers(10.0)
    workers.lives[:] = [5, 6, 7]
    for _ in range(5):
        workers.look(0, 2)
        workers.wait(9.0)
    assert workers.members.lives == [5, 0, 7]


def test_who_comes_back_lives_again():
    workers = Workers(10.0)
    workers.lives[0] = 5
    workers.look(0)
    workers.wait(60.0)
    assert workers.members.missing == [0, 1, 2]
    workers.look(0)  # It had been frozen.
    assert workers.members.lives == [5, 0, 0]
    workers.wait(60.0)
    workers.lives[0] = 8  # It was started again.
    workers.look()
    assert workers.members.lives == [8, 0, 0]


def test_the_newest_life_is_remembered_whatever_becomes_of_it():
    workers = Workers(10.0)
    assert workers.members.newest == 0
    workers.lives[:] = [5, 7, 6]
    workers.look(0, 1, 2)
    assert workers.members.newest == 7
    workers.lives[1] = -1  # It has left.
    workers.look()
    assert workers.members.newest == 7
    workers.lives[2] = 8
    workers.look()
    assert workers.members.newest == 8


def test_who_is_silent_for_a_while_is_told_apart_from_who_is_missing():
    workers = Workers(30.0)
    workers.lives[:2] = [5, 6]
    workers.look(0, 1)
    workers.wait(3 * HEARTBEAT_S)
    workers.look(0)
    workers.wait(2 * HEARTBEAT_S)
    assert workers.members.silent == [1, 2]
    assert workers.members.missing == [2]


def test_who_has_left_does_not_live():
    workers = Workers(10.0)
    workers.lives[:] = [5, -1, 0]
    workers.look(0, 1)
    assert workers.members.lives == [5, 0, 0]
    assert workers.members.left == [False, True, False]


def test_nobody_is_lost_while_the_chief_does_not_look():
    """A chief that had been frozen for longer than a lease had given up all its workers."""
    workers = Workers(10.0)
    workers.lives[:] = [5, 6, 7]
    workers.look(0, 1, 2)
    workers.wait(5.0)
    workers.now += 60.0  # Frozen.
    assert workers.members.lives == [5, 6, 7]
    assert workers.members.silent == [0, 1, 2]
    workers.look(0)
    assert workers.members.lives == [5, 6, 7]
    assert workers.members.silent == [1, 2]
    workers.wait(5.0)
    assert workers.members.lives == [5, 0, 0]
