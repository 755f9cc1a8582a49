"""Dispenser of an evaluation: every piece is summed once, whoever delivers it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.waiting_calls import in_thread, waits
from tf_backup._tf.named import Name
from tf_backup.rules import pieces
from tf_backup.rules.pieces import STOP, WAIT, Piece
from tf_backup.servers.dispenser import Dispenser

LANES = 2
SPECS = [
    tf.TensorSpec([], tf.float32),
    tf.TensorSpec([2], tf.int64),
    tf.TensorSpec([1], tf.float32),
]


class Calls:
    """A dispenser, with plain numbers. Worker i has the life i + 1."""

    def __init__(self, name: Name) -> None:
        self.dispenser = Dispenser(LANES, SPECS, name)
        self._next = tf.function(self.dispenser.next, autograph=False)
        self._deliver = tf.function(self._delivered, autograph=False)
        self.run = 0

    def begin(self) -> None:
        self.run = int(self.dispenser.begin())

    def next(self, worker: int, run: int | None = None) -> list[int]:
        numbers = (worker, worker + 1, self.run if run is None else run)
        return list(self._next(*map(number, numbers)).numpy())

    def deliver(
        self, worker: int, lane: int, start: int, batches: int, ended: bool = False, run: int = 0
    ) -> list[int]:
        """Deliver a piece whose sum is 1 for each batch."""
        numbers = map(number, (worker, worker + 1, run or self.run, lane, start, batches))
        return list(self._deliver(*numbers, tf.constant(ended)).numpy())

    def sums(self) -> list[Any]:
        return [value.numpy().tolist() for value in self.dispenser.sums()]

    def _delivered(
        self, worker: Any, life: Any, run: Any, lane: Any, start: Any, batches: Any, ended: Any
    ) -> Any:
        layout = self.dispenser.layout
        ones = tf.cast(batches, tf.float32)
        values = {0: ones, 1: tf.stack([batches, -batches]), 2: 10 * ones[None]}
        buffers = [
            layout.pack({i: values[i] for i in layout.members[key]}, key) for key in layout.keys
        ]
        piece = Piece(run, lane, start, batches, ended)
        return self.dispenser.deliver(worker, life, piece, buffers)


def number(value: int) -> Any:
    return tf.constant(value, tf.int64)


def total(batches: int) -> list[Any]:
    return [batches, [batches, -batches], [10 * batches]]


@pytest.fixture
def calls(one_device: Name, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A dispenser in its first evaluation, to which no worker seems slow."""
    monkeypatch.setattr(pieces, "SLOW_S", 600.0)
    calls = Calls(one_device)
    calls.begin()
    return calls


def test_all_pieces_are_summed(calls: Calls) -> None:
    assert [calls.next(0), calls.next(1)] == [[0, 0], [1, 0]]
    assert calls.deliver(0, lane=0, start=0, batches=3) == [0, 3]
    assert calls.deliver(1, lane=1, start=0, batches=2, ended=True)[0] == WAIT
    end = in_thread(calls.dispenser.await_end)
    assert waits(end)
    assert calls.deliver(0, lane=0, start=3, batches=1, ended=True)[0] == STOP
    assert int(end.result(timeout=60)) == calls.run
    assert calls.sums() == total(6)
    assert calls.dispenser.lanes().position.tolist() == [4, 2]


def test_a_piece_that_is_delivered_again_is_ignored(calls: Calls) -> None:
    calls.next(0)
    calls.deliver(0, lane=0, start=0, batches=3)
    calls.deliver(1, lane=0, start=0, batches=3)
    calls.deliver(1, lane=0, start=1, batches=3)
    assert calls.sums() == total(3)


def test_the_lane_of_a_lost_worker_goes_on_where_it_was(calls: Calls) -> None:
    calls.next(0)
    calls.next(1)
    calls.deliver(0, lane=0, start=0, batches=3)
    assert calls.next(5) == [WAIT, 0]
    holder = calls.dispenser.lanes().holder
    calls.dispenser.expire(tf.constant(np.where(holder == 1, 9, 0)))  # Not the life that is there.
    assert calls.next(5) == [WAIT, 0]
    calls.dispenser.expire(tf.constant(np.where(holder == 1, 1, 0)))
    assert calls.next(5) == [0, 3]


def test_the_next_evaluation_starts_from_nothing(calls: Calls) -> None:
    calls.deliver(0, lane=0, start=0, batches=3, ended=True)
    calls.deliver(1, lane=1, start=0, batches=3, ended=True)
    earlier = calls.run
    calls.begin()
    assert calls.sums() == total(0)
    assert calls.next(0, run=earlier)[0] == STOP
    assert calls.deliver(0, lane=0, start=0, batches=5, run=earlier)[0] == STOP
    assert calls.sums() == total(0)
    end = in_thread(calls.dispenser.await_end)
    assert waits(end)  # The end of the earlier one is not taken for its own.
    for lane in range(LANES):
        calls.deliver(0, lane, start=0, batches=1, ended=True)
    assert int(end.result(timeout=60)) == calls.run


def test_an_evaluation_that_is_closed_counts_nothing_more(calls: Calls) -> None:
    calls.deliver(0, lane=0, start=0, batches=3)
    calls.dispenser.close()
    assert calls.next(0)[0] == STOP
    assert calls.deliver(0, lane=0, start=3, batches=3)[0] == STOP
    assert calls.sums() == total(3)
