"""Contributions by ticket: what is taken is what was put, and nothing is left that may be used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_backup._tf.named import Name
from tf_backup.servers.accumulator import Accumulator

# A dense buffer, the ids and the rows of a table.
SPECS = [
    tf.TensorSpec([2], tf.float32),
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([None, 2], tf.float32),
]


class Stored:
    """An accumulator on one server. A contribution is made of a single number."""

    def __init__(self, name: Name, queued: bool) -> None:
        self.accumulator = Accumulator({0: SPECS}, queued, name)
        ticket = tf.TensorSpec([], tf.int64)
        self._put = tf.function(self._stored, input_signature=[ticket, SPECS])
        self._discard = tf.function(self._discarded, input_signature=[ticket])

    def put(self, ticket: int, number: float) -> None:
        part = [
            tf.fill([2], float(number)),
            tf.constant([int(number)], tf.int64),
            tf.fill([1, 2], -float(number)),
        ]
        self._put(tf.constant(ticket, tf.int64), part)

    def discard(self, ticket: int) -> None:
        self._discard(tf.constant(ticket, tf.int64))

    def take(self, *tickets: int, least: int | None = None) -> list[list[Any]]:
        """Return the parts as lists of numbers."""

        count = len(tickets)

        def taken(tickets: Any) -> Any:
            sure = count if least is None else least
            return self.accumulator.take(tf.unstack(tickets, count), 0, sure)

        parts = tf.function(taken, autograph=False)(tf.constant(tickets, tf.int64))
        return [[tensor.numpy().tolist() for tensor in part] for part in parts]

    def _stored(self, ticket: Any, part: list[Any]) -> Any:
        with tf.control_dependencies([self.accumulator.put(ticket, part)]):
            return tf.constant(True)

    def _discarded(self, ticket: Any) -> Any:
        with tf.control_dependencies([self.accumulator.discard(ticket, 0)]):
            return tf.constant(True)


def part(number: float) -> list[Any]:
    return [[number, number], [int(number)], [[-number, -number]]]


@pytest.fixture(params=[False, True], ids=["synchronous", "queued"])
def stored(request: pytest.FixtureRequest, one_device: Name) -> Stored:
    return Stored(one_device, request.param)


@pytest.fixture
def synchronous(one_device: Name) -> Stored:
    return Stored(one_device, queued=False)


@pytest.fixture
def queued(one_device: Name) -> Stored:
    return Stored(one_device, queued=True)


def test_parts_are_taken_by_ticket(stored: Stored) -> None:
    for ticket in (10, 20, 30):
        stored.put(ticket, ticket / 10)
    assert stored.take(30, 10) == [part(3), part(1)]


def test_others_are_discarded_with_the_update(synchronous: Stored) -> None:
    for ticket in (10, 20, 30):
        synchronous.put(ticket, 1)
    synchronous.take(10, 20)
    synchronous.put(30, 5)  # Would not replace what is there.
    assert synchronous.take(30) == [part(5)]


def test_others_stay_if_contributions_are_queued(queued: Stored) -> None:
    for ticket in (10, 20, 30):
        queued.put(ticket, ticket / 10)
    queued.take(10, 20)
    assert queued.take(30) == [part(3)]


def test_the_next_contribution_of_a_worker_replaces_an_unused_one(queued: Stored) -> None:
    queued.put(10, 1)
    queued.put(20, 2)
    queued.put(11, 3)
    queued.put(10, 4)  # Would not replace what is there.
    assert queued.take(10, 11, 20) == [part(4), part(3), part(2)]


def test_discarding_needs_no_contribution(stored: Stored) -> None:
    stored.discard(10)
    stored.put(10, 1)
    stored.discard(10)
    stored.put(10, 2)
    assert stored.take(10) == [part(2)]


def test_missing_contributions_are_zeros_without_rows(stored: Stored) -> None:
    stored.put(10, 1)
    stored.put(20, 2)
    nothing = [[0, 0], [], []]
    assert stored.take(10, 20, -1, least=1) == [part(1), part(2), nothing]


def test_clear_discards_all(stored: Stored) -> None:
    stored.put(10, 1)
    stored.accumulator.clear()
    stored.put(10, 2)
    assert stored.take(10) == [part(2)]


def test_a_server_without_a_part_stores_nothing(one_device: Name) -> None:
    accumulator = Accumulator({}, False, one_device)
    with tf.Graph().as_default() as graph:
        accumulator.put(tf.constant(np.int64(10)), [])
        assert not [op for op in graph.get_operations() if op.type.startswith("Map")]
