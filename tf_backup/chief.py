"""The chief: takes the mean of N gradients, updates, publishes, releases.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithm 4.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup import _tf, placement
from tf_backup.accumulator import Accumulator
from tf_backup.contribution import Contribution
from tf_backup.gate import GATE_SERVER, Gate
from tf_backup.objective import Objective
from tf_backup.packing import Key
from tf_backup.snapshot import Snapshot

Tensor = Any


def make_update(
    objective: Objective,
    snapshot: Snapshot,
    contribution: Contribution,
    accumulator: Accumulator,
    gate: Gate,
) -> Any:
    """Returns the function that makes one update.

    Its operations lie on the parameter servers; through the coordinator pass only the tickets
    and what the objective reports.

    Args:
      objective: whose variables are updated.
      snapshot: of the variables that workers read.
      contribution: how the workers' results travel.
      accumulator: where they wait.
      gate: told when step t + 1 may begin.

    Returns:
      A `tf.function` of the N tickets ([N] int64) and of whether this is the run's last update
      ([] bool), which returns the objective's results and the number of updates made.
    """
    servers = sorted({GATE_SERVER, *snapshot.layout.servers})

    def totals(tickets: Tensor) -> list[Tensor | None]:
        """Returns the mean (or sum) for every target, None where workers send nothing."""
        buffers: dict[Key, Tensor] = {}
        for ps in contribution.layout.servers:

            def take(tickets: Tensor, ps: int = ps) -> list[Tensor]:
                each = tf.unstack(tickets, gate.policy.replicas)
                return list(accumulator.take(each, ps).values())

            keys = contribution.layout.keys_on(ps)
            sums = _tf.on_server(ps, take, tickets)
            buffers.update(zip(keys, sums, strict=True))
        return contribution.totals(buffers)

    def publish(last: Tensor) -> Tensor:
        """Publishes theta(t + 1), then releases the workers; returns t + 1."""

        def write(ps: int) -> Tensor:
            def at_server() -> Tensor:
                with tf.control_dependencies(snapshot.write(ps)):
                    return tf.constant(True)

            return _tf.on_server(ps, at_server)

        def release(last: Tensor, written: list[Tensor]) -> Tensor:
            with tf.control_dependencies([*snapshot.write(GATE_SERVER), *written]):
                return gate.complete_step(last)

        written = [write(ps) for ps in servers if ps != GATE_SERVER]
        return _tf.on_server(GATE_SERVER, release, last, written)

    @tf.function(autograph=False)
    def update(tickets: Tensor, last: Tensor) -> Any:
        values = totals(tickets)
        gradients = values[: len(objective.trainable)]
        others = [*objective.state, *objective.sums]
        with placement.with_its_inputs():
            objective.apply(gradients)
            for variable, value in zip(others, values[len(gradients) :], strict=True):
                if value is not None:
                    variable.assign_add(value)
            results = objective.results()
        return results, publish(last)

    return update
