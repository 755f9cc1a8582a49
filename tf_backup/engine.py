"""SGD with backup workers on one objective: everything below Keras, put together.

An engine lives as long as its objective; a run is one epoch: `begin`, `step` ..., `end`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup import _tf, chief, errors, gate, protocol, runs
from tf_backup.accumulator import Accumulator
from tf_backup.contribution import Contribution
from tf_backup.failures import check_servers, told_plainly, worker_failed
from tf_backup.objective import Objective
from tf_backup.policy import BackupPolicy
from tf_backup.records import Books, Contributions
from tf_backup.snapshot import Snapshot
from tf_backup.watch import Watch
from tf_backup.worker import Worker

log = logging.getLogger(__name__)

TICK_S = 0.5  # How often the chief looks up while it waits.
HOME_TIMEOUT_S = 30.0  # How long the end of training waits for workers' last batches.


class Engine:
    """Trains an objective on the workers and parameter servers of a strategy.

    Args:
      strategy: a `tf.distribute.ParameterServerStrategy`.
      policy: N, b and the bound on staleness; the first N + b workers of the cluster take part.
      objective: what is trained.
      stall_timeout_s: how long to wait, with fewer than N workers alive, for one to come back.
    """

    def __init__(
        self,
        strategy: Any,
        policy: BackupPolicy,
        objective: Objective,
        stall_timeout_s: float,
    ) -> None:
        self.policy = policy
        self._strategy = strategy
        self._stall_timeout_s = stall_timeout_s
        self._snapshot = Snapshot(objective.read)
        results = objective.compute.structured_outputs
        contribution = Contribution(objective, results, policy.replicas)
        self._contribution = contribution
        specs = {ps: contribution.specs(ps) for ps in contribution.servers}
        self._accumulator = Accumulator(specs, queued=policy.max_staleness != 0)
        self._gate = gate.Gate(policy)
        self._books = Books(policy.workers, self._gate.ledger)
        parts = (self._snapshot, contribution, self._accumulator, self._gate)
        self._worker = Worker(objective.compute, *parts)
        self._update = chief.make_update(objective, *parts)
        self._tasks: list[_tf.WorkerTask] = []
        self._older_tasks: list[_tf.WorkerTask] = []
        self._ticker: threading.Thread | None = None
        self._stop_ticking = threading.Event()
        self._step = 0
        self._active = False
        self._dead: set[int] = set()
        self._watch = Watch()

    @property
    def active(self) -> bool:
        """Whether a run is on: workers compute, or wait for the next step."""
        return self._active

    @property
    def living_workers(self) -> int:
        """How many of the N + b workers live, as far as the chief has seen; from any thread."""
        return self.policy.workers - len(self._dead)

    @property
    def bytes_per_step(self) -> dict[str, int]:
        """Bytes that one worker reads and sends per step, without rows of tables."""
        return {"read": self._snapshot.layout.nbytes, "sent": self._contribution.layout.nbytes}

    def contributions(self) -> Contributions:
        """Returns what became of every contribution since this engine was made."""
        return self._books.read()

    def begin(self, iterators: Sequence[_tf.WorkerTask], step: int) -> None:
        """Publishes theta(t) and sets the workers to work on step t = `step`.

        Steps never come twice, since the workers draw their random numbers by them: an
        optimizer that counts fewer (it accumulates gradients, or skipped some that were not
        finite) does not set the count back.
        """
        step = max(step, self._step)
        if self._active:
            raise RuntimeError("A run is on already.")
        runs.begin(self._strategy, self)
        with told_plainly(self._strategy):
            self._snapshot.publish()
            self._accumulator.clear()
            run = self._gate.open_run(tf.constant(step, tf.int64))
            self._step = step
            self._watch = Watch()
            self._active = True
            self._start_ticking()
            self._older_tasks = [task for task in self._older_tasks if not task.done]
            self._older_tasks += [task for task in self._tasks if not task.done]
            data = _tf.worker_values(iterators)
            self._tasks = [
                _tf.WorkerTask(
                    self._strategy, i, self._worker.loop, (tf.constant(i, tf.int64), run, data)
                )
                for i in range(self.policy.workers)
            ]

    def step(self, last: bool) -> Any:
        """Waits until step t has its N gradients, and makes the update.

        Args:
          last: whether this is the run's last update; the workers then go home.

        Returns:
          The objective's results; None if too few workers have data left for an update.

        Raises:
          ParameterServerLost, WorkersLost, WorkerFailed: nothing is updated then.
        """
        with told_plainly(self._strategy):
            made_of = self._await_step()
            self._notice_deaths()
            if made_of is None:
                return None
            tickets, workers, staleness = made_of
            self._books.announce(workers, staleness)
            results, step = self._update(tf.constant(tickets, tf.int64), tf.constant(last))
            self._step = int(step)
            self._books.made()
            return results

    def end(self) -> None:
        """Ends the run, if one is on: sends the workers home, and does not wait for them."""
        if not self._active:
            return
        self._stop()
        with told_plainly(self._strategy):
            self._gate.close_run()

    def close(self) -> None:
        """Ends training: waits until the workers are home, and closes the books."""
        self.end()
        tasks = [*self._older_tasks, *self._tasks]
        deadline = time.monotonic() + HOME_TIMEOUT_S
        while any(not (task.done or task.dead) for task in tasks):
            if time.monotonic() > deadline:
                away = sorted({task.worker for task in tasks if not task.done})
                log.warning(
                    "Worker(s) %s have not finished their last batch within %.0f s. Training goes "
                    "on without waiting for them; their last contributions count as lost.",
                    ", ".join(map(str, away)),
                    HOME_TIMEOUT_S,
                )
                break
            time.sleep(0.005)
        with told_plainly(self._strategy):
            self._gate.settle()
        self._tasks, self._older_tasks = [], []

    def abandon(self) -> None:
        """Ends training after the cluster is lost: asks nothing of it."""
        self._stop()
        self._tasks, self._older_tasks = [], []

    def _stop(self) -> None:
        """Ends the run as far as this process is concerned."""
        self._active = False
        runs.ended(self._strategy, self)
        self._stop_ticking.set()
        if self._ticker is not None:
            self._ticker.join()
            self._ticker = None

    # ---- Waiting ------------------------------------------------------------------------------

    def _await_step(self) -> Any:
        """Returns what update t is made of; None if too few workers have data left.

        [3, N]: the tickets, their workers, and how many updates old they are.
        """
        self._watch.restart()
        while True:
            event = self._gate.next_event().numpy()  # A tick comes at the latest.
            sign = event[0, 0]
            if sign == self._step:
                return event[1:]
            if sign == gate.EXHAUSTED:
                return None
            if sign == gate.TICK and self._look_around():
                return None

    def _look_around(self) -> bool:
        """Does what is to be done while a step takes long.

        Returns:
          Whether the run is over, since those that still have data are too few, or dead.
        """
        for task in self._tasks:
            if task.error is not None:
                raise worker_failed(self._strategy, task.worker, task.error)
        ledger = self._gate.ledger()
        dead = [task.dead for task in self._tasks]
        self._notice_deaths()
        alive = len(self._tasks) - sum(dead)
        if alive >= self.policy.replicas:
            self._watch.enough()
        if protocol.complete(ledger, self.policy.replicas):
            return False  # Its event is on the way.
        left = ledger.status == protocol.LEFT
        usable = int(np.sum(~left & ~np.array(dead)))
        if np.any(left) and usable < self.policy.replicas:
            return True
        if self._watch.time_to_report():
            self._report(ledger, dead)
            check_servers(self._strategy)
        if self._watch.short_s > self._stall_timeout_s:
            raise errors.WorkersLost(
                f"Step {self._step} needs {self.policy.replicas} workers, but only {alive} of "
                f"{self.policy.workers} have been alive for {self._watch.short_s:.0f} s. Missing: "
                f"{self._names(dead)}. Start them again and run this command again; it goes on "
                "from the last checkpoint if it saves them."
            )
        return False

    def _notice_deaths(self) -> None:
        """Says who is gone, and who is back."""
        dead = {task.worker for task in self._tasks if task.dead}
        if dead == self._dead:
            return
        names = [f"worker {i} ({a})" for i, a in enumerate(self._addresses())]
        for worker in sorted(dead - self._dead):
            log.warning(
                "Lost %s. %d of %d workers are left; an update takes %d.",
                names[worker],
                self.policy.workers - len(dead),
                self.policy.workers,
                self.policy.replicas,
            )
        for worker in sorted(self._dead - dead):
            log.warning("%s is back.", names[worker].capitalize())
        self._dead = dead

    def _addresses(self) -> list[str]:
        return _tf.cluster_addresses(self._strategy, "worker")[: self.policy.workers]

    def _report(self, ledger: protocol.Ledger, dead: Sequence[bool]) -> None:
        """Says why step t takes so long."""
        inside = int(np.sum(ledger.status == protocol.DELIVERED))
        computing = np.flatnonzero((ledger.status == protocol.COMPUTING) & ~np.array(dead))
        absent = np.flatnonzero((ledger.status == protocol.ABSENT) & ~np.array(dead))
        parts = [f"{inside} of {self.policy.replicas} gradients are in"]
        for verb, who in (("computing", computing), ("starting", absent)):
            if len(who):
                parts.append(f"worker(s) {', '.join(map(str, who))} {verb}")
        if any(dead):
            parts.append(f"dead: {self._names(dead)}")
        log.warning("Step %d takes %.0f s: %s.", self._step, self._watch.seconds, "; ".join(parts))

    def _names(self, dead: Sequence[bool]) -> str:
        addresses = self._addresses()
        return ", ".join(f"worker {i} ({addresses[i]})" for i, gone in enumerate(dead) if gone)

    def _start_ticking(self) -> None:
        self._stop_ticking = threading.Event()
        stop = self._stop_ticking

        def tick() -> None:
            # An error here is the chief's too: it will meet it in a call of its own.
            with contextlib.suppress(tf.errors.OpError):
                while not stop.wait(TICK_S):
                    self._gate.tick()

        self._ticker = threading.Thread(target=tick, name="tf_backup-ticker", daemon=True)
        self._ticker.start()
