"""Engine of SGD with backup workers on one objective, independent of Keras.

An engine lives as long as its objective. A run is one epoch: `begin`, `step` ..., `end`.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup._tf.named import Boxed, Name
from tf_backup.actors import coordinator, current_run
from tf_backup.actors.chief import Chief
from tf_backup.actors.engine_counts import EngineCounts
from tf_backup.actors.failures import worker_failed
from tf_backup.actors.replicas_chooser import ReplicasChooser
from tf_backup.actors.run import Run
from tf_backup.actors.supervisor import FAILED_S, LAST_BATCH_TIMEOUT_S, Supervisor
from tf_backup.actors.timeline_reader import Listeners, TimelineReader
from tf_backup.actors.worker import Worker
from tf_backup.network.watch import Watch
from tf_backup.objective import Objective
from tf_backup.policy import BackupPolicy
from tf_backup.records import Contributions
from tf_backup.rules import protocol
from tf_backup.servers import gate, reports
from tf_backup.servers.accumulator import Accumulator
from tf_backup.servers.contribution import Contribution
from tf_backup.servers.permits import GO, HALT, LAST, Permits
from tf_backup.servers.program import Program
from tf_backup.servers.reports import Report, Reports
from tf_backup.servers.snapshot import Snapshot
from tf_backup.worker_data import Pipelines

AHEAD = 64  # Maximum number of updates that are permitted ahead of the chief's process.
_POLL_S = 0.1
_SETTLE_POLL_S = 0.02


class Engine:
    """Training of one objective on the workers and parameter servers of a strategy.

    Args:
      strategy: a strategy created by tf_backup.
      policy: N, b and the bound on staleness.
      objective: the training objective.
      element_spec: spec of the batches.
      stall_timeout_s: how long to wait for workers while fewer than N are alive.
      on_nonfinite: what to do with a gradient that has NaN or Inf: "drop", "raise" or "keep".
      listeners: get the rows of the timeline; None if none is to be recorded.
    """

    def __init__(
        self,
        strategy: Any,
        policy: BackupPolicy,
        objective: Objective,
        element_spec: Any,
        stall_timeout_s: float,
        on_nonfinite: str = "keep",
        listeners: Listeners | None = None,
    ) -> None:
        self.policy = policy
        self._strategy, self._coordinator = strategy, coordinator.of(strategy)
        self._stall_timeout_s, self._on_nonfinite = stall_timeout_s, on_nonfinite
        name = Name(self._coordinator.container, f"engine/{uuid.uuid4().hex}")
        with self._coordinator.tracing():
            self._snapshot = Snapshot(objective.read, name / "snapshot")
            results = objective.compute.structured_outputs
            contribution = Contribution(objective, results)
            specs = {ps: contribution.specs(ps) for ps in contribution.servers}
            self._accumulator = Accumulator(specs, policy.max_staleness != 0, name / "accumulator")
            self._gate = gate.Gate(policy, name / "gate", logs=listeners is not None)
            self._permits = Permits(name / "permits")
            self._reports = Reports(
                reports.structure_of(objective.results, results.reports),
                policy.replicas,
                name / "reports",
            )
            parts = (self._snapshot, contribution, self._accumulator, self._gate)
            self._worker = Worker(objective.compute, *parts, on_nonfinite)
            self._chief = Chief(
                objective,
                *parts,
                self._permits,
                self._reports,
                alone=runtime.ps_count(strategy) == 1,
            )
            tables = [
                Boxed(table.handle, runtime.ps_index(table.device), name / f"tables/{i}")
                for i, table in enumerate(objective.tables)
            ]
            self._program = Program(
                self._worker.functions(element_spec),
                [*self._snapshot.resources, *self._gate.resources, *tables],
                name / "program",
            )
            self._loop = self._chief.loop.get_concrete_function(tf.TensorSpec([], tf.int64))
        self._counts = EngineCounts(policy, self._gate.ledger)
        self._step = 0
        self._granted = 0  # Permits whose updates have not been returned yet ...
        self._last = False  # ... and whether one of them is for the run's last update.
        self._made = 0  # Updates in this run,
        self._began = self._gate.ledger()  # and the ledger when it began.
        self._run: Run | None = None
        self._unread: deque[Report] = deque()  # Of a run that was ended before `step` returned them
        chooser = ReplicasChooser(policy) if policy.auto else None
        self._timeline = TimelineReader(self._gate.log, listeners, chooser)
        self._supervisor = Supervisor(self._gate, self._coordinator, self._timeline, chooser)
        self._watch = Watch()

    @property
    def active(self) -> bool:
        """Whether `step` can be called: a run is in progress, or has left updates to return."""
        return self._run is not None or bool(self._unread)

    @property
    def living_workers(self) -> int:
        """Number of workers that are alive, at most N + b. Any thread may read this."""
        return min(self.policy.workers, self._coordinator.members.living)

    def contributions(self) -> Contributions:
        """Return the contribution counts since this engine was created."""
        return self._counts.read()

    # ---- A run --------------------------------------------------------------------------------

    def begin(self, data: Pipelines, step: int) -> None:
        """Publish theta(t) and start the workers on step t = `step`.

        Step numbers never repeat, because workers seed their random numbers with them. So `step`
        never sets the count back: an optimizer that accumulates gradients, or that has skipped
        gradients that were not finite, counts fewer updates.
        """
        if self.active:
            raise RuntimeError("A run is on already.")
        current_run.begin(self._strategy, self.end)
        with self._coordinator.told_plainly():
            self._step = max(step, self._step)
            self._snapshot.publish()
            self._accumulator.clear()
            self._permits.revoke()
            self._granted, self._last = 0, False
            self._made, self._began = 0, self._gate.ledger()
            start = tf.constant(self._step, tf.int64)
            number = int(self._gate.open_run(start))
            self._run = Run(
                lambda: self._loop(start),
                self._reports.read,
                self._counts.note,
                self._supervisor.look_after,
            )
            self._coordinator.announce(self._program.job("train", data, run=number))

    def step(self, ahead: int = 1, last: bool = False) -> Any:
        """Make an update, or return one that has been made already.

        Args:
          ahead: number of updates that may be made before the next call, this one included.
          last: whether the last of these updates is the run's last. Workers stop after it.

        Returns:
          The objective's results; None if too few workers have data left for an update.

        Raises:
          ParameterServerLost, WorkersLost, WorkerFailed: if training fails. No update is made then.
        """
        if self._unread:
            return self._returned(self._unread.popleft())
        assert self._run is not None
        with self._coordinator.told_plainly():
            self._coordinator.check()
            self._run.ahead = ahead > 1
            self._grant(ahead, last)
            report = self._await_report()
            if report is None:
                return None
            self._granted -= 1
            if self._last and not self._granted:
                if not self._run.wait(self._coordinator.check):
                    self._gate.close_run()  # Else the workers would wait for the end of the step.
                self._over()
            return self._returned(report)

    def settle(self) -> None:
        """Wait until no update is in progress, so that variables on the servers do not change.

        Updates that have been made already and not been returned are returned by `step` later.
        """
        if self._run is None:
            return
        with self._coordinator.told_plainly():
            if revoked := int(self._permits.revoke()):
                self._granted -= revoked
                self._last = False  # The permit for the last update was among them.
            while self._run.reports < self._granted and self._run.goes_on:
                self._coordinator.check()
                time.sleep(_SETTLE_POLL_S)

    def end(self) -> None:
        """End the run, if any: tell the workers to stop, without waiting for them."""
        if (run := self._run) is None:
            return
        self._over()
        with self._coordinator.told_plainly():
            self._permits.revoke()
            self._permits.grant(tf.constant([HALT], tf.int64))
            self._gate.stop()
            run.wait(self._coordinator.check)
            self._unread.extend(run.unread())
            self._gate.close_run()

    def close(self, failed: bool = False) -> None:
        """End training: wait until the workers have finished, and complete the counts.

        Args:
          failed: whether an error ends training, so that no other one is to be raised.

        Raises:
          WorkerFailed: for `on_nonfinite="raise"`, if a worker has reported such a gradient.
        """
        self.end()
        self._unread.clear()
        with self._coordinator.told_plainly():
            self._supervisor.await_last_batches(FAILED_S if failed else LAST_BATCH_TIMEOUT_S)
            reported = self._coordinator.worker_errors()
            self._gate.settle()
            self._timeline.read()
            self._supervisor.report_nonfinite(self._gate.ledger(), at_once=True)
            self._accumulator.clear()
            self._program.forget_data()
            self._coordinator.announce(None)
        if reported and self._on_nonfinite == "raise" and not failed:
            raise worker_failed(reported[0])

    def read_timeline(self) -> None:
        """Hand the rows of the timeline that are there to the listeners."""
        with self._coordinator.told_plainly():
            self._timeline.read()

    def abandon(self) -> None:
        """End training after the cluster is lost, without calling it."""
        self._unread.clear()
        self._counts.close(None if self._run is None else self._run.ledger)
        if self._run is not None:
            self._run.abandon()
            self._over()

    def _returned(self, report: Report) -> Any:
        """Note that an update is returned, and return its results."""
        self._made += 1
        self._step = report.step + 1
        return report.results

    def _over(self) -> None:
        """Mark the run as ended in this process."""
        self._run = None
        current_run.ended(self._strategy, self.end)

    def _grant(self, ahead: int, last: bool) -> None:
        """Give permits for `ahead` updates, minus those that have been given already."""
        whole = ahead <= AHEAD
        more = min(ahead, AHEAD) - self._granted
        # Give many at once, because each grant is a call.
        if more <= 0 or (self._granted and more < AHEAD // 2 and not whole):
            return
        kinds = np.full([more], GO)
        if last and whole:
            kinds[-1], self._last = LAST, True
        self._permits.grant(tf.constant(kinds, tf.int64))
        self._granted += more

    # ---- Waiting ------------------------------------------------------------------------------

    def _await_report(self) -> Report | None:
        """Return the next update's report; None if too few workers have data left."""
        assert self._run is not None
        self._watch.restart()
        while True:
            report = self._run.next_report(_POLL_S)
            self._coordinator.check_workers()  # The others may make updates without one.
            if report is not None and report.step >= 0:
                return report
            self._coordinator.check()
            if report is not None or self._look_around():
                if not self._made:
                    self._supervisor.check_ended(self._began, self._gate.ledger())
                return None

    def _look_around(self) -> bool:
        """Raise errors and log delays while a step takes long.

        Returns:
          Whether the run is over because too few living workers still have data.
        """
        assert self._run is not None
        ledger = self._run.ledger
        if ledger is not None:
            self._supervisor.check_finite(ledger)
        members = self._coordinator.members
        if members.living >= self.policy.least_workers:
            self._watch.enough()
        if ledger is None or protocol.complete(ledger, ledger.replicas):
            return False
        left = ledger.status == protocol.LEFT
        usable = min(self.policy.workers, members.living) - int(np.sum(left))
        if np.any(left) and usable * ledger.quota < ledger.replicas:
            return True
        if self._watch.time_to_report():
            self._supervisor.explain(self._step, self._watch.seconds, ledger)
        if self._watch.short_s > self._stall_timeout_s:
            raise self._supervisor.workers_lost(self._step, self._watch.short_s)
        return False
