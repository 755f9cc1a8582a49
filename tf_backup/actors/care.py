"""Housekeeping during a run: lost workers, returning workers, and slow steps."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tf_backup.actors.coordinator import Coordinator
from tf_backup.rules import protocol
from tf_backup.rules.protocol import Ledger
from tf_backup.servers.gate import Gate
from tf_backup.servers.gate_rules import unpacked

log = logging.getLogger(__name__)


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
        return ledger

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
