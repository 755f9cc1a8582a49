"""Queues of tokens: each worker gets those of its place and of its entry."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.waiting_calls import in_thread, waits
from tf_backup._tf.named import Name
from tf_backup.rules.protocol import EXPELLED, STOP, WAIT
from tf_backup.servers.tokens import TokenQueues

PLACES = 3


class Tokens:
    """Queues of tokens, with plain numbers."""

    def __init__(self, name: Name) -> None:
        self.queues = TokenQueues(PLACES, name)
        self._resolve = tf.function(self.queues.resolve, autograph=False)

    def put(self, tokens: dict[int, tuple[int, int]]) -> None:
        """Put tokens, an entry and a step for some of the places."""
        pairs, sizes = np.zeros([PLACES, 2], np.int64), np.tile(np.int64([0, 2]), [PLACES, 1])
        for place, pair in tokens.items():
            pairs[place], sizes[place, 0] = pair, 1
        self.queues.put(tf.constant(pairs), tf.constant(sizes))

    def resolve(self, place: int, entry: int, then: int = WAIT) -> int:
        return int(self._resolve(*(tf.constant(each, tf.int64) for each in (place, entry, then))))


@pytest.fixture
def tokens(one_device: Name) -> Tokens:
    return Tokens(one_device)


def test_each_place_gets_its_own_token(tokens: Tokens) -> None:
    tokens.put({0: (1, 10), 2: (3, 12)})
    assert tokens.resolve(2, entry=3) == 12
    assert tokens.resolve(0, entry=1) == 10


def test_who_need_not_wait_takes_no_token(tokens: Tokens) -> None:
    tokens.put({1: (4, 10)})
    assert tokens.resolve(1, entry=4, then=7) == 7
    assert tokens.resolve(1, entry=4, then=STOP) == STOP
    assert tokens.resolve(1, entry=4) == 10


def test_tokens_of_older_entries_are_discarded(tokens: Tokens) -> None:
    tokens.put({0: (1, 10)})
    tokens.put({0: (2, 11)})
    tokens.put({0: (5, 12)})
    assert tokens.resolve(0, entry=5) == 12


def test_a_token_for_a_later_entry_is_left_to_it(tokens: Tokens) -> None:
    tokens.put({0: (5, 10)})
    assert tokens.resolve(0, entry=4) == EXPELLED
    assert tokens.resolve(0, entry=5) == 10


def test_a_worker_waits_for_its_token(tokens: Tokens) -> None:
    step = in_thread(tokens.resolve, 1, 4)
    tokens.put({0: (4, 10), 2: (4, 10)})
    assert waits(step)
    tokens.put({1: (4, 11)})
    assert step.result(timeout=60) == 11
