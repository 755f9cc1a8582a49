"""Permits for updates: granted, taken, and taken back."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tests.unit.waiting_calls import in_thread, waits
from tf_backup._tf.named import Name
from tf_backup.servers.permits import GO, HALT, LAST, Permits


class Granted:
    """A queue of permits, with plain numbers."""

    def __init__(self, name: Name) -> None:
        self.permits = Permits(name)
        self._take = tf.function(self.permits.take)

    def grant(self, *kinds: int) -> None:
        self.permits.grant(tf.constant(kinds, tf.int64))

    def revoke(self) -> int:
        return int(self.permits.revoke())

    def take(self) -> int:
        return int(self._take())


@pytest.fixture
def granted(one_device: Name) -> Any:
    return Granted(one_device)


def test_permits_are_taken_in_order(granted: Granted) -> None:
    granted.grant(GO, GO)
    granted.grant(LAST)
    assert [granted.take() for _ in range(3)] == [GO, GO, LAST]


def test_unused_permits_are_taken_back_and_counted(granted: Granted) -> None:
    granted.grant(GO, GO, LAST)
    assert granted.take() == GO
    assert granted.revoke() == 2
    assert granted.revoke() == 0
    granted.grant(HALT)
    assert granted.take() == HALT


def test_the_loop_waits_for_a_permit(granted: Granted) -> None:
    taken = in_thread(granted.take)
    assert waits(taken)
    granted.grant(GO)
    assert taken.result(timeout=60) == GO
