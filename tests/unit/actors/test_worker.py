"""The worker's loop, with one device as the servers; the test does what the chief does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.actors.one_process import SPEC, TIMEOUT_S, descent
from tests.unit.waiting_calls import in_thread
from tf_backup._tf import datasets
from tf_backup._tf.named import Name
from tf_backup.actors.worker import Worker
from tf_backup.policy import BackupPolicy
from tf_backup.rules.protocol import NO_PLACE, STOP
from tf_backup.servers.accumulator import Accumulator
from tf_backup.servers.contribution import Contribution
from tf_backup.servers.event import ROW
from tf_backup.servers.gate import Gate
from tf_backup.servers.ledger_changes import Times
from tf_backup.servers.snapshot import Snapshot

pytestmark = pytest.mark.slow  # Computes for seconds.

LIFE = 7


class Training:
    """A worker of a cluster with N = 1 and b = 0, and its chief. The gradient is the batch."""

    def __init__(self, name: Name, on_nonfinite: str = "keep") -> None:
        self.weight = tf.Variable(5.0)
        objective = descent(self.weight, tf.Variable(0.0))
        self.gate = Gate(BackupPolicy(1), name / "gate")
        self._contribution = Contribution(objective, objective.compute.structured_outputs)
        specs = {ps: self._contribution.specs(ps) for ps in self._contribution.servers}
        self._accumulator = Accumulator(specs, False, name / "accumulator")
        self.snapshot = Snapshot(objective.read, name / "snapshot")
        parts = (self.snapshot, self._contribution, self._accumulator, self.gate)
        worker = Worker(objective.compute, *parts, on_nonfinite)
        self._functions = worker.functions(SPEC)
        self._event = tf.function(self.gate.next_event, autograph=False)
        self._complete = tf.function(self.gate.complete_step, autograph=False)
        self._take = tf.function(self._taken, autograph=False)
        self.run = int(self.gate.open_run(number(0)))
        self.snapshot.publish()

    def admit(self, worker: int, life: int) -> int:
        return int(self._functions["admit"](number(worker), number(life), number(self.run)))

    def work(self, *numbers: float) -> int:
        """Work on these batches, until told to stop."""
        iterator = iter(tf.data.Dataset.from_tensor_slices(np.float32(numbers)))
        me = (number(0), number(LIFE), number(self.run))
        return int(self._functions["loop"](*me, datasets.resource_of(iterator)))

    def event(self, step: int) -> Any:
        return self._event(number(step))

    def contribution(self, event: Any) -> list[float]:
        """Return the gradient, what it adds to the count, and the parameters it was made with."""
        return [float(value) for value in self._take(event[ROW.tickets])]

    def complete(self, last: bool = False) -> None:
        self._complete(tf.constant(last), Times(*[number(0)] * 3))

    def _taken(self, tickets: Any) -> Any:
        found = []
        for ps in self._contribution.servers:
            parts = self._accumulator.take(tf.unstack(tickets, 1), ps, 1)
            found.append(self._contribution.combine(parts, ps, 1))
        return tf.nest.flatten(self._contribution.totals(found))


def number(value: int) -> Any:
    return tf.constant(value, tf.int64)


def test_each_gradient_is_of_the_latest_parameters(one_device: Name) -> None:
    training = Training(one_device)
    assert training.admit(0, LIFE) == 0
    assert training.admit(1, LIFE + 1) == NO_PLACE
    end = in_thread(training.work, 10, 20, 30, 40)
    for step in range(3):
        event = training.event(step)
        assert training.contribution(event) == [10 * (step + 1), 1, 5 + step]
        assert not end.done()
        training.weight.assign_add(1.0)
        training.snapshot.publish()
        training.complete(last=step == 2)
    assert end.result(TIMEOUT_S) == STOP
    assert training.gate.ledger().accepted.tolist() == [3]


def test_it_stops_at_the_end_of_its_data(one_device: Name) -> None:
    training = Training(one_device)
    training.admit(0, LIFE)
    assert training.work() == STOP
    assert training.event(0)[0, 0] < 0  # No step can be completed any more.
    assert training.gate.ledger().begun.tolist() == [0]


def test_a_gradient_that_is_not_finite_is_dropped(one_device: Name) -> None:
    training = Training(one_device, "drop")
    training.admit(0, LIFE)
    end = in_thread(training.work, -np.inf, 20)
    assert training.contribution(training.event(0)) == [20, 1, 5]
    training.complete(last=True)
    assert end.result(TIMEOUT_S) == STOP
    ledger = training.gate.ledger()
    assert (ledger.nonfinite.tolist(), ledger.accepted.tolist()) == ([1], [1])
