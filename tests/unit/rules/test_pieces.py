"""Data in pieces: every batch counts once, even if workers are slow, die or come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_backup.rules import pieces
from tf_backup.rules.pieces import SLOW_S, STOP, WAIT, Piece
from tf_backup.servers.gate_rules import TENSORS

SECOND = 1_000_000


class Desk:
    """Lanes and a clock."""

    def __init__(self, lanes: int) -> None:
        self.now = 50 * SECOND
        self.lanes = pieces.begin(pieces.new_lanes(lanes))
        self.indices = np.arange(lanes)

    def choose(self, worker: int, life: int | None = None, run: int = 1) -> tuple[int, int]:
        life = 100 + worker if life is None else life
        self.lanes, lane, start = pieces.choose(
            self.lanes, self.indices, worker, life, run, self.now
        )
        return int(lane), int(start)

    def deliver(
        self, lane: int, start: int, batches: int, ended: bool = False, run: int = 1
    ) -> tuple[bool, bool]:
        piece = Piece(run, lane, start, batches, np.bool_(ended))
        self.lanes, counts, over = pieces.deliver(self.lanes, self.indices, piece)
        return bool(counts), bool(over)


def test_each_worker_begins_with_a_lane_of_its_own_and_goes_on_with_it():
    desk = Desk(3)
    assert [desk.choose(worker) for worker in (2, 0, 1)] == [(2, 0), (0, 0), (1, 0)]
    assert desk.deliver(2, 0, 5) == (True, False)
    assert desk.choose(2) == (2, 5)


def test_who_has_finished_its_lane_takes_one_that_nobody_holds():
    desk = Desk(3)
    assert desk.choose(0) == (0, 0)
    desk.deliver(0, 0, 4, ended=True)
    assert desk.choose(0) == (1, 0)


def test_without_a_free_lane_a_worker_waits_until_another_one_is_slow():
    desk = Desk(2)
    desk.choose(0)
    desk.choose(1)
    desk.deliver(0, 0, 4, ended=True)
    assert desk.choose(0) == (WAIT, 0)
    desk.now += int(1.1 * SLOW_S * SECOND)
    assert desk.choose(0) == (1, 0)
    assert desk.deliver(1, 0, 3) == (True, False)
    assert desk.deliver(1, 0, 2) == (False, False)  # The slow one, at last.
    assert desk.choose(1) == (WAIT, 0)  # The other one has its lane now.


def test_the_lane_of_who_is_gone_goes_on_where_its_last_piece_ended():
    desk = Desk(2)
    desk.choose(0)
    desk.choose(1)
    desk.deliver(1, 0, 7)
    desk.choose(1)
    desk.deliver(0, 0, 4, ended=True)
    desk.lanes = pieces.expire(desk.lanes, desk.lanes.holder == 101)
    assert desk.choose(0) == (1, 7)
    assert desk.deliver(1, 7, 2, ended=True) == (True, True)


def test_the_last_piece_ends_it_and_nothing_counts_afterwards():
    desk = Desk(1)
    desk.choose(0)
    assert desk.deliver(0, 0, 0, ended=True) == (True, True)
    assert desk.deliver(0, 0, 0, ended=True) == (False, False)
    assert desk.choose(0) == (STOP, 0)


def test_of_an_older_evaluation_nothing_counts():
    desk = Desk(1)
    desk.choose(0)
    desk.lanes = pieces.begin(desk.lanes)
    assert desk.choose(0) == (STOP, 0)
    assert desk.deliver(0, 0, 3, ended=True) == (False, False)
    assert desk.choose(0, run=2) == (0, 0)


@pytest.mark.parametrize("seed", range(200))
def test_every_batch_counts_once_under_random_schedules(seed: int):
    """Workers die between choosing and delivering, and deliver late what others have done."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, size=rng.integers(1, 5))
    desk = Desk(len(lengths))
    seen = [np.zeros([length], np.int64) for length in lengths]
    held: dict[int, tuple[int, int]] = {}
    for _ in range(2000):
        desk.now += int(rng.integers(0, 2 * SECOND))
        life = int(rng.integers(1, 6))
        if life not in held:
            lane, start = desk.choose(life % len(lengths), life)
            if lane == STOP:
                break
            if lane != WAIT:
                held[life] = lane, start
        elif rng.random() < 0.2:  # It dies or freezes: two may hold a lane then.
            if rng.random() < 0.5:
                del held[life]
            desk.lanes = pieces.expire(desk.lanes, desk.lanes.holder == life)
        else:
            lane, start = held.pop(life)
            left = int(lengths[lane]) - start
            batches = min(left, int(rng.integers(1, 5)))
            counts, _ = desk.deliver(lane, start, batches, ended=batches == left)
            seen[lane][start : start + batches] += counts
    assert desk.lanes.open == 0
    assert all((each == 1).all() for each in seen)


def test_rules_on_tensors_equal_rules_on_numpy():
    rng = np.random.default_rng(3)
    for _ in range(50):
        vectors = [rng.integers(0, 3, [4]), rng.integers(0, 3, [4]), rng.integers(0, 9, [4])]
        lanes = pieces.Lanes(np.int64(1), np.int64(1), *vectors, rng.integers(0, 2, [4]))
        numbers = [*rng.integers(0, 4, [2]), np.int64(1), np.int64(SLOW_S * SECOND + 5)]
        piece = Piece(np.int64(1), *rng.integers(0, 3, [3]), np.bool_(rng.random() < 0.5))
        calls: list[tuple[Any, tuple[Any, ...]]] = [
            (pieces.choose, (lanes, np.arange(4), *numbers)),
            (pieces.deliver, (lanes, np.arange(4), piece)),
            (pieces.expire, (lanes, rng.random(4) < 0.5)),
        ]
        for rule, args in calls:
            right = rule(*args)
            mine = rule(*tf.nest.map_structure(tf.constant, args), TENSORS)
            for one, other in zip(tf.nest.flatten(right), tf.nest.flatten(mine), strict=True):
                np.testing.assert_array_equal(one, other.numpy())
