"""Housekeeping during a run: lost workers, returning workers, and slow steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup.actors.coordinator import Coordinator
from tf_backup.actors.replicas_chooser import ReplicasChooser
from tf_backup.actors.timeline_reader import TimelineReader
from tf_backup.errors import NonFiniteGradients, WorkersLost
from tf_backup.rules import protocol, shortage
from tf_backup.rules.protocol import Ledger
from tf_backup.servers.gate import Gate
from tf_backup.servers.gate_rules import unpacked

log = logging.getLogger(__name__)

LAST_BATCH_TIMEOUT_S = 30.0  # How long the end of training waits for workers' last batches,
FAILED_S = 1.0  # and how long after an error or an interrupt.
_POLL_S = 0.02
_NONFINITE_IN_A_STEP = 10  # After so many in one step, a worker is not expected to recover.
_RETURN_S = 30.0  # How long a missing worker may take to come back, if an update needs it.
_ARRIVAL_S = 30.0  # How long to wait for workers that were never there before making do without.
_REPORT_S = 30.0  # Minimum between two warnings about dropped gradients.
_REMEDY = (
    "Either training has diverged (lower the learning rate, or clip gradients), or these workers' "
    'data or machines are faulty. wrap(..., on_nonfinite="keep") uses such gradients.'
)


class Supervisor:
    """Supervision of a run: it ends the entries of lost workers, and logs changes and slow steps.

    Args:
      gate: the gate of the runs.
      coordinator: the coordinator, which knows the workers that are alive.
      timeline: reader of the gate's log.
      chooser: chooses N during training; None if N is fixed.
    """

    def __init__(
        self,
        gate: Gate,
        coordinator: Coordinator,
        timeline: TimelineReader,
        chooser: ReplicasChooser | None = None,
    ) -> None:
        self._gate = gate
        self._coordinator = coordinator
        self._timeline = timeline
        self._chooser = chooser
        self._gone: set[int] = set()
        self._reported: Any = 0  # [places] dropped gradients that a warning has reported.
        self._next_report_s = 0.0
        self._before: Ledger | None = None  # The first that was seen in the current step.
        self._short_since = 0.0  # Since when too few workers may be able to complete it.
        self._began = time.monotonic()

    def look_after(self) -> Ledger:
        """End the entries of lost workers, log changes, read the timeline; return the ledger."""
        ledger = unpacked(self._gate.tick().numpy())
        gone = self._ended(ledger)
        if any(gone):
            self._gate.expire(tf.constant(gone, tf.int64))
        self._tell_of_deaths()
        self._adapt(ledger)
        self.report_nonfinite(ledger)
        self._timeline.read()
        return ledger

    def _ended(self, ledger: Ledger) -> list[int]:
        """Return the life of each place's holder if it has ended, else 0.

        A worker that registers may get a place before the chief sees its new life on the board. It
        would lose the place, and its gradient, if it were compared with the life before.
        """
        members = self._coordinator.members
        newest = members.newest
        lives = members.lives
        return [
            int(life) if 0 < life <= newest and lives[int(holder)] != life else 0
            for holder, life in zip(ledger.holder, ledger.life, strict=True)
        ]

    def _adapt(self, ledger: Ledger) -> None:
        """Change what an update is made of with the number of workers, if the policy allows it."""
        policy, members = self._gate.policy, self._coordinator.members
        if not ledger.open or policy.least_workers == policy.replicas:
            return
        alive = members.living
        if time.monotonic() - self._began < _ARRIVAL_S:
            alive += sum(1 for worker in members.missing if not members.ever[worker])
        if policy.fill:
            self._set_quota(ledger, shortage.quota_for(policy.replicas, alive))
        else:
            self._resize(ledger, alive)

    def _set_quota(self, ledger: Ledger, quota: int) -> None:
        """Let a worker contribute as often to an update as is necessary for N gradients."""
        if quota == ledger.quota:
            return
        self._gate.set_quota(tf.constant(quota, tf.int64))
        log.warning(
            "%d workers are alive: from about step %d on, an update takes at most %d gradient(s) "
            "of a worker instead of %d.",
            self._coordinator.members.living,
            int(ledger.step),
            quota,
            int(ledger.quota),
        )

    def _resize(self, ledger: Ledger, alive: int) -> None:
        """Make updates of as many gradients as chosen, and as workers are alive."""
        policy = self._gate.policy
        chosen = policy.replicas if self._chooser is None else self._chooser.replicas
        wanted = min(chosen, max(policy.least, alive))
        if wanted == ledger.wanted:
            return
        self._gate.resize(tf.constant(wanted, tf.int64))
        if alive < chosen or self._chooser is None:
            log.warning(
                "%d workers are alive: from about step %d on, an update is the mean of %d "
                "gradients instead of %d.",
                self._coordinator.members.living,
                int(ledger.step),
                wanted,
                int(ledger.wanted),
            )

    def await_last_batches(self, timeout_s: float) -> None:
        """Wait until no responsive worker computes any more, for a limited time."""
        deadline = time.monotonic() + timeout_s
        while True:
            ledger = self.look_after()
            busy = ledger.status == protocol.COMPUTING
            away = {int(worker) for worker in ledger.holder[busy]}
            away -= {error["worker"] for error in self._coordinator.worker_errors()}
            if away <= set(self._coordinator.members.silent):
                return
            if time.monotonic() > deadline:
                log.warning(
                    "Worker(s) %s have not finished their last batch within %.0f s. Training goes "
                    "on without waiting for them; their last contributions count as lost.",
                    ", ".join(map(str, sorted(away))),
                    timeout_s,
                )
                return
            time.sleep(_POLL_S)

    def check_finite(self, ledger: Ledger) -> None:
        """Check that enough workers may still compute finite gradients for the current step.

        Call it while a step takes long, in the main thread.

        Raises:
          NonFiniteGradients: if an update needs a worker that has computed nothing else in this
            step. Where workers are missing, only if none comes back for some time.
        """
        before = self._before
        if before is None or (before.run, before.step) != (ledger.run, ledger.step):
            before = ledger
            self._short_since = 0.0
        # Count again from a worker's last gradient that was finite.
        since = np.where(ledger.queued == before.queued, before.nonfinite, ledger.nonfinite)
        self._before = before._replace(nonfinite=since, queued=ledger.queued)
        dropped = ledger.nonfinite - since
        hopeless = (dropped >= _NONFINITE_IN_A_STEP) & (ledger.status != protocol.DELIVERED)
        if not np.any(hopeless):
            self._short_since = 0.0
            return
        able = (ledger.life > 0) & (ledger.status != protocol.LEFT) & ~hopeless
        replicas = int(ledger.replicas)
        most = np.where(able, np.maximum(ledger.queued, ledger.quota), ledger.queued)
        if int(np.sum(most)) >= replicas:
            self._short_since = 0.0
            return
        self._short_since = self._short_since or time.monotonic()
        may_come = int(np.sum(~hopeless)) >= replicas
        if may_come and time.monotonic() - self._short_since < _RETURN_S:
            return
        workers = ", ".join(str(int(worker)) for worker in ledger.holder[hopeless])
        raise NonFiniteGradients(
            f"Step {int(ledger.step)} needs {replicas} gradients, but all of worker(s) {workers} "
            f"have NaN or Inf: {int(np.sum(dropped))} were dropped in this step. {_REMEDY}"
        )

    def check_ended(self, before: Ledger, ledger: Ledger) -> None:
        """Check that a run without updates did not end because gradients were dropped.

        A run that made updates may end with dropped gradients: the warning about them is enough.

        Args:
          before: the ledger when the run began.
          ledger: the ledger now.

        Raises:
          NonFiniteGradients: if there would have been an update otherwise.
        """
        dropped = int(np.sum(ledger.nonfinite - before.nonfinite))
        if dropped >= self._gate.policy.replicas:
            raise NonFiniteGradients(
                f"The data ended at step {int(ledger.step)} without an update: {dropped} gradients "
                f"were dropped because they have NaN or Inf. {_REMEDY}"
            )

    def explain(self, step: int, seconds: float, ledger: Ledger) -> None:
        """Log why a step takes long."""
        members, replicas = self._coordinator.members, int(ledger.replicas)
        silent, missing = set(members.silent), set(members.missing)
        computing = ledger.holder[(ledger.life > 0) & (ledger.status == protocol.COMPUTING)]
        busy = sorted({int(worker) for worker in computing} - silent)
        inside = int(np.sum(ledger.queued))
        parts = [f"{inside} of {replicas} gradients are in"]
        if busy:
            parts.append(f"worker(s) {', '.join(map(str, busy))} computing")
        if silent - missing:
            parts.append(f"not heard of: {self.names(silent - missing)}")
        if missing:
            parts.append(f"missing: {self.names(missing)}")
        log.warning("Step %d takes %.0f s: %s.", step, seconds, "; ".join(parts))

    def workers_lost(self, step: int, seconds: float) -> WorkersLost:
        """Return the error for a step for which there have been too few workers for `seconds`."""
        policy, members = self._gate.policy, self._coordinator.members
        return WorkersLost(
            f"Step {step} needs {policy.least_workers} workers, but only {members.living} of "
            f"{policy.workers} have been alive for {seconds:.0f} s. Missing: "
            f"{self.names(members.missing)}. {self._coordinator.remedy('them')}"
        )

    def names(self, workers: Iterable[int]) -> str:
        """Return the names of workers, with their addresses."""
        addresses = self._coordinator.addresses["worker"]
        return ", ".join(f"worker {i} ({addresses[i]})" for i in sorted(workers))

    def _tell_of_deaths(self) -> None:
        """Log the workers that were lost, and those that are back."""
        members = self._coordinator.members
        gone = {worker for worker in members.missing if members.ever[worker]}
        for worker in sorted(gone - self._gone):
            log.warning(
                "Lost %s. %d workers are left; an update takes %d.",
                self.names([worker]),
                members.living,
                self._gate.policy.replicas,
            )
        for worker in sorted(self._gone - gone):
            name = self.names([worker])
            log.warning("%s is back.", name[0].upper() + name[1:])
        self._gone = gone

    def report_nonfinite(self, ledger: Ledger, at_once: bool = False) -> None:
        """Log which workers' gradients were dropped, at most every `_REPORT_S` or `at_once`."""
        new = ledger.nonfinite - self._reported
        if not np.any(new) or (time.monotonic() < self._next_report_s and not at_once):
            return
        whose = [f"{int(ledger.holder[place])} ({new[place]})" for place in np.flatnonzero(new)]
        log.warning(
            "Dropped %d gradient(s) with NaN or Inf, of worker(s) %s.",
            int(np.sum(new)),
            ", ".join(whose),
        )
        self._reported = ledger.nonfinite
        self._next_report_s = time.monotonic() + _REPORT_S
