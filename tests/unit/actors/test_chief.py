"""The chief's loop, with one device as the server; the test does what workers do."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tests.unit.actors.one_process import TIMEOUT_S, descent
from tests.unit.waiting_calls import in_thread
from tf_backup._tf.named import Name
from tf_backup.actors.chief import Chief
from tf_backup.objective import Results
from tf_backup.policy import BackupPolicy
from tf_backup.rules.protocol import STOP
from tf_backup.servers.accumulator import Accumulator
from tf_backup.servers.contribution import Contribution
from tf_backup.servers.gate import Gate
from tf_backup.servers.permits import GO, HALT, LAST, Permits
from tf_backup.servers.reports import Reports, structure_of
from tf_backup.servers.snapshot import Snapshot

pytestmark = pytest.mark.slow  # Computes for seconds.

N = 2


class Training:
    """A chief with N = 2 and b = 0, and the calls of its workers."""

    def __init__(self, name: Name) -> None:
        self.weight, self.seen = tf.Variable(100.0), tf.Variable(0.0)
        objective = descent(self.weight, self.seen)
        results = objective.compute.structured_outputs
        self.gate, self.permits = Gate(BackupPolicy(N), name / "gate"), Permits(name / "permits")
        self._contribution = Contribution(objective, results)
        specs = {ps: self._contribution.specs(ps) for ps in self._contribution.servers}
        self._accumulator = Accumulator(specs, False, name / "accumulator")
        self.snapshot = Snapshot(objective.read, name / "snapshot")
        structure = structure_of(objective.results, results.reports)
        self.reports = Reports(structure, N, name / "reports")
        parts = (objective, self.snapshot, self._contribution, self._accumulator, self.gate)
        self._chief = Chief(*parts, self.permits, self.reports, alone=True)
        self._enter = tf.function(self._entered, autograph=False)
        self._offer = tf.function(self._offered, autograph=False)
        self.run = int(self.gate.open_run(number(0)))
        self.entries = [int(self._enter(number(i), number(i + 1), number(self.run)))
                        for i in range(N)]  # fmt: skip

    def loop(self) -> Any:
        return in_thread(lambda: int(self._chief.loop(number(0))))

    def grant(self, *kinds: int) -> None:
        self.permits.grant(tf.constant(kinds, tf.int64))

    def offer(self, worker: int, step: int, gradient: float) -> Any:
        """Deliver a gradient, and return the future of the worker's next action."""
        ticket = 1000 * (worker + 1) + step
        numbers = [worker, self.entries[worker], self.run, step, ticket]
        args = (*map(number, numbers), tf.constant(gradient))
        return in_thread(lambda: int(self._offer(*args)))

    def _entered(self, worker: Any, life: Any, run: Any) -> Any:
        place = self.gate.admit(worker, life, run)
        return self.gate.enter(place, life, run)[1]

    def _offered(
        self, worker: Any, entry: Any, run: Any, step: Any, ticket: Any, gradient: Any
    ) -> Any:
        results = Results([gradient], [], [tf.constant(1.0)], [10 * gradient])
        buffers = self._contribution.buffers(results)
        with tf.control_dependencies([self._accumulator.put(ticket, buffers)]):
            one = tf.constant(1, tf.int64)
            return self.gate.offer(worker, entry, run, step, ticket, one, one)


def number(value: int) -> Any:
    return tf.constant(value, tf.int64)


def numbers(report: Any) -> list[float]:
    return [report.step, float(report.results["weight before"]), float(report.results["seen"])]


def test_updates_are_means_of_n_and_as_many_as_permitted(one_device: Name) -> None:
    training = Training(one_device)
    loop = training.loop()
    training.grant(GO)
    offers = [training.offer(0, 0, 1.0), training.offer(1, 0, 3.0)]
    (report,) = training.reports.read()
    assert numbers(report) == [0, 20, 2]  # The mean of what the workers report.
    assert sorted(report.places.tolist()) == [0, 1]
    assert [offer.result(TIMEOUT_S) for offer in offers] == [1, 1]
    assert float(training.weight) == 98
    (published,) = tf.function(training.snapshot.read_all)()
    assert float(published) == 98
    # The next step is complete, but not permitted.
    offers = [training.offer(0, 1, 10.0), training.offer(1, 1, 30.0)]
    waiting = in_thread(training.reports.read)
    assert not offers[0].done()
    assert float(training.weight) == 98
    training.grant(LAST)
    found = waiting.result(TIMEOUT_S)
    assert numbers(found[0]) == [1, 200, 4]
    assert [offer.result(TIMEOUT_S) for offer in offers] == [STOP, STOP]
    assert loop.result(TIMEOUT_S) == 2
    end = found[1] if len(found) > 1 else training.reports.read()[0]
    assert end.step < 0
    assert float(training.weight) == 78


def test_the_loop_ends_when_it_is_told_to(one_device: Name) -> None:
    training = Training(one_device)
    training.grant(HALT)
    assert training.loop().result(TIMEOUT_S) == 0
    assert training.reports.read()[0].step < 0
    training.grant(GO)
    loop = training.loop()
    training.gate.stop()  # While it waits for gradients.
    assert loop.result(TIMEOUT_S) == 0
    assert float(training.weight) == 100
