"""The gate on one device: calls of workers, of the chief's loop and of the coordinator."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.cluster.processes import wait_until
from tests.unit.waiting_calls import in_thread
from tf_backup._tf.named import Name
from tf_backup.policy import BackupPolicy
from tf_backup.rules.protocol import COMPUTING, EXPELLED, STOP
from tf_backup.servers.gate import STOPPED, Gate
from tf_backup.servers.ledger_changes import Times

pytestmark = pytest.mark.slow  # Computes for seconds.

N, B = 2, 1


class Calls:
    """A gate, with plain numbers. A worker that waits for its next action is a future."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._admit, self._enter, self._offer, self._event, self._complete = (
            tf.function(each, autograph=False)
            for each in (gate.admit, gate.enter, gate.offer, gate.next_event, gate.complete_step)
        )
        self.entries: dict[int, int] = {}
        self.run = 0

    def open(self, step: int = 0) -> None:
        self.run = int(self.gate.open_run(number(step)))

    def enter(self, worker: int) -> int:
        """Let a worker enter at its own place, and return its first step."""
        life = number(100 + worker)
        place = self._admit(number(worker), life, number(self.run))
        assert int(place) == worker
        then, entry, _ = self._enter(place, life, number(self.run))
        self.entries[worker] = int(entry)
        return int(then)

    def offer(self, worker: int, step: int, ticket: int = 0, finite: int = 1) -> Future[int]:
        numbers = [worker, self.entries[worker], self.run, step, ticket, finite, 1000]
        return in_thread(lambda: int(self._offer(*map(number, numbers))))

    def event(self, step: int) -> Any:
        return self._event(number(step)).numpy()

    def complete(self, last: bool = False) -> int:
        times = Times(number(1), number(2), number(3))
        return int(self._complete(tf.constant(last), times))

    def await_computing(self, count: int) -> None:
        wait_until(lambda: np.sum(self.gate.ledger().status == COMPUTING) == count)


def number(value: int) -> Any:
    return tf.constant(value, tf.int64)


@pytest.fixture
def calls(one_device: Name) -> Calls:
    """A gate with N = 2 and b = 1, in its first run."""
    calls = Calls(Gate(BackupPolicy(N, B), one_device))
    calls.open(step=5)
    return calls


def test_a_step_from_its_first_token_to_the_next(calls: Calls) -> None:
    assert [calls.enter(worker) for worker in range(N + B)] == [5] * 3
    first = calls.offer(2, 5, ticket=20)
    calls.await_computing(2)
    second = calls.offer(0, 5, ticket=10)
    event = calls.event(5)
    assert sorted(zip(event[1].tolist(), event[2].tolist(), strict=True)) == [(10, 0), (20, 2)]
    assert (event[0].tolist(), event[3].tolist()) == ([5, 5], [0, 0])
    late = calls.offer(1, 5, ticket=30)
    calls.await_computing(0)
    assert not (first.done() or second.done() or late.done())
    assert calls.complete() == 6
    assert [each.result(timeout=60) for each in (first, second, late)] == [6, 6, 6]
    ledger = calls.gate.ledger()
    assert (ledger.accepted.tolist(), ledger.late.tolist()) == ([1, 0, 1], [0, 1, 0])
    assert calls.gate.log is not None
    rows, _ = calls.gate.log.read()
    assert len(rows) == N + B + 1


def test_the_last_update_sends_everybody_home(calls: Calls) -> None:
    calls.enter(0)
    calls.enter(1)
    offers = [calls.offer(worker, 5, ticket=worker) for worker in (0, 1)]
    calls.event(5)
    calls.complete(last=True)
    assert [offer.result(timeout=60) for offer in offers] == [STOP, STOP]


def test_a_gradient_that_was_dropped_is_counted_and_no_event(calls: Calls) -> None:
    calls.enter(0)
    assert calls.offer(0, 5, finite=0).result(timeout=60) == 5
    assert calls.gate.ledger().nonfinite.tolist() == [1, 0, 0]
    calls.gate.stop()
    assert calls.event(5)[0, 0] == STOPPED


def test_an_event_that_was_lost_is_repeated(calls: Calls) -> None:
    calls.enter(0)
    calls.enter(1)
    offers = [calls.offer(worker, 5, ticket=worker) for worker in (0, 1)]
    event = calls.event(5)
    calls.gate.tick()
    np.testing.assert_array_equal(calls.event(5), event)
    calls.gate.tick()
    calls.complete()  # What was repeated once more is of an earlier step now.
    assert [offer.result(timeout=60) for offer in offers] == [6, 6]
    calls.gate.stop()
    assert calls.event(6)[0, 0] == STOPPED


def test_who_waits_when_its_lease_ends_is_told(calls: Calls) -> None:
    for worker in range(N + B):
        calls.enter(worker)
    offers = [calls.offer(worker, 5, ticket=worker) for worker in (0, 1)]
    calls.event(5)
    late = calls.offer(2, 5)
    calls.await_computing(0)
    calls.gate.expire(tf.constant([0, 0, 7], tf.int64))  # Not the life that is there.
    assert not late.done()
    calls.gate.expire(tf.constant([0, 0, 102], tf.int64))
    assert late.result(timeout=60) == EXPELLED
    calls.complete()
    assert [offer.result(timeout=60) for offer in offers] == [6, 6]


def test_a_run_that_is_closed_counts_everything(calls: Calls) -> None:
    calls.enter(0)
    calls.enter(1)
    offer = calls.offer(0, 5)
    calls.await_computing(1)
    calls.gate.close_run()
    assert offer.result(timeout=60) == STOP
    assert int(calls.gate.settle()) == 5
    ledger = calls.gate.ledger()
    assert (ledger.stale.tolist(), ledger.lost.tolist()) == ([1, 0, 0], [0, 1, 0])


def test_events_of_an_earlier_run_are_gone(calls: Calls) -> None:
    calls.gate.stop()
    calls.open(step=5)
    calls.enter(0)
    calls.enter(1)
    offers = [calls.offer(worker, 5, ticket=worker) for worker in (0, 1)]
    assert calls.event(5)[0, 0] == 5
    calls.gate.close_run()
    assert [offer.result(timeout=60) for offer in offers] == [STOP, STOP]


def test_fewer_gradients_complete_a_step(one_device: Name) -> None:
    calls = Calls(Gate(BackupPolicy(2, least_replicas=1), one_device))
    calls.open()
    calls.enter(1)
    offer = calls.offer(1, 0, ticket=9)
    calls.await_computing(0)
    assert int(calls.gate.resize(number(1))) == 0
    event = calls.event(0)
    assert (event[1].tolist(), event[2].tolist()) == ([9, -1], [1, -1])
    calls.complete()
    assert offer.result(timeout=60) == 1


def test_without_a_log_it_decides_the_same(one_device: Name) -> None:
    calls = Calls(Gate(BackupPolicy(N, B), one_device, logs=False))
    assert calls.gate.log is None
    calls.open()
    offers = [calls.offer(worker, calls.enter(worker), ticket=worker) for worker in (0, 1)]
    assert calls.event(0)[1].tolist() == [0, 1]
    assert calls.complete() == 1
    assert [offer.result(timeout=60) for offer in offers] == [1, 1]
