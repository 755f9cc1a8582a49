"""Housekeeping during a run: lost workers, returning workers, and slow steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup.actors.coordinator import Coordinator
from tf_backup.errors import NonFiniteGradients
from tf_backup.rules import protocol
from tf_backup.rules.protocol import Ledger
from tf_backup.servers.gate import Gate
from tf_backup.servers.gate_rules import unpacked

log = logging.getLogger(__name__)

_NONFINITE_IN_A_STEP = 10  # Of one worker: that it computes a finite one is given up then.
_REPORT_S = 30.0  # Between two lines on gradients that were dropped.


class Care:
    """Housekeeping that ends the entries of lost workers, and logs changes and slow steps.

    Args:
      gate: the gate of the runs.
      coordinator: the coordinator, which knows the workers that are alive.
    """

    def __init__(self, gate: Gate, coordinator: Coordinator) -> None:
        self._gate = gate
        self._coordinator = coordinator
        self._gone: set[int] = set()
        self._told: Any = 0  # [places] gradients that were not finite, when last told of,
        self._next_report_s = 0.0  # and when to tell of more.
        self._before: Any = None  # [places] the same, when the step began.

    def look_after(self) -> Ledger:
        """End the entries of lost workers, log changes, and return the ledger."""
        ledger = unpacked(self._gate.tick().numpy())
        lives = self._coordinator.members.lives
        gone = [
            int(life) if life > 0 and lives[int(holder)] != life else 0
            for holder, life in zip(ledger.holder, ledger.life, strict=True)
        ]
        if any(gone):
            self._gate.expire(tf.constant(gone, tf.int64))
        self._tell_of_deaths()
        self._tell_of_nonfinite(ledger)
        return ledger

    def restart(self) -> None:
        """A new step begins."""
        self._before = None

    def check_finite(self, step: int, ledger: Ledger) -> None:
        """Check that N workers may still compute finite gradients.

        Raises:
          NonFiniteGradients: if in this step too many have computed nothing else.
        """
        if self._before is None:
            self._before = ledger.nonfinite
        again = ledger.nonfinite - self._before >= _NONFINITE_IN_A_STEP
        replicas, places = self._gate.policy.replicas, self._gate.policy.workers
        if places - int(np.sum(again)) < replicas:
            workers = ", ".join(str(int(worker)) for worker in ledger.holder[again])
            raise NonFiniteGradients(
                f"Step {step} needs {replicas} gradients, but those of worker(s) {workers} have "
                f"NaN or Inf, {_NONFINITE_IN_A_STEP} times in a row each. Either training has "
                "diverged (lower the learning rate, or clip gradients), or these workers' data or "
                'machines are faulty. wrap(..., on_nonfinite="keep") uses such gradients.'
            )

    def explain(self, step: int, seconds: float, ledger: Ledger) -> None:
        """Log why a step takes long."""
        members, replicas = self._coordinator.members, self._gate.policy.replicas
        silent, missing = set(members.silent), set(members.missing)
        computing = ledger.holder[(ledger.life > 0) & (ledger.status == protocol.COMPUTING)]
        busy = sorted({int(worker) for worker in computing} - silent)
        inside = int(np.sum(ledger.status == protocol.DELIVERED))
        parts = [f"{inside} of {replicas} gradients are in"]
        if busy:
            parts.append(f"worker(s) {', '.join(map(str, busy))} computing")
        if silent - missing:
            parts.append(f"not heard of: {self.names(silent - missing)}")
        if missing:
            parts.append(f"missing: {self.names(missing)}")
        log.warning("Step %d takes %.0f s: %s.", step, seconds, "; ".join(parts))

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

    def _tell_of_nonfinite(self, ledger: Ledger) -> None:
        """Say which workers' gradients were dropped: at first, and then now and then."""
        new = ledger.nonfinite - self._told
        if not np.any(new) or time.monotonic() < self._next_report_s:
            return
        whose = [f"{int(ledger.holder[place])} ({new[place]})" for place in np.flatnonzero(new)]
        log.warning(
            "Dropped %d gradient(s) with NaN or Inf, of worker(s) %s.",
            int(np.sum(new)),
            ", ".join(whose),
        )
        self._told = ledger.nonfinite
        self._next_report_s = time.monotonic() + _REPORT_S
