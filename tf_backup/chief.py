"""The chief: takes the mean of N gradients, updates, publishes, releases.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 2 and 4.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup import _tf_graph, placement
from tf_backup.accumulator import Accumulator
from tf_backup.contribution import Contribution
from tf_backup.gate import GATE_SERVER, Gate
from tf_backup.objective import Objective
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

    def totals(tickets: Tensor) -> tuple[list[Any], list[Tensor]]:
        """Returns the mean (or sum) for every target, None where workers send nothing.

        Returns also, from each server, a sign that the contributions to step t are out of it.
        """
        found: dict[int, Any] = {}
        taken = []
        for ps in contribution.servers:

            def take(tickets: Tensor, ps: int = ps) -> tuple[Tensor, dict[int, Any]]:
                parts = accumulator.take(tf.unstack(tickets, gate.policy.replicas), ps)
                with tf.control_dependencies([part[0] for part in parts]):
                    return tf.constant(True), contribution.combine(parts, ps)

            done, values = _tf_graph.on_server(ps, take, tickets)
            taken.append(done)
            found.update(values)
        return contribution.totals(found), taken

    def publish(last: Tensor, taken: list[Tensor]) -> Tensor:
        """Publishes theta(t + 1), then releases the workers; returns t + 1.

        Not before every server has taken step t out, also those that publish nothing: a
        contribution to step t + 1 could be there already, and be cleared away with it. (Or throw
        away its worker's one to step t.)
        """

        def write(ps: int) -> Tensor:
            def at_server() -> Tensor:
                with tf.control_dependencies(snapshot.write(ps)):
                    return tf.constant(True)

            return _tf_graph.on_server(ps, at_server)

        def release(last: Tensor, written: list[Tensor]) -> Tensor:
            with tf.control_dependencies([*snapshot.write(GATE_SERVER), *written]):
                return gate.complete_step(last)

        written = [write(ps) for ps in servers if ps != GATE_SERVER]
        return _tf_graph.on_server(GATE_SERVER, release, last, [*written, *taken])

    @_tf_graph.function
    def update(tickets: Tensor, last: Tensor) -> Any:
        values, taken = totals(tickets)
        gradients = values[: len(objective.trainable)]
        others = [*objective.state, *objective.sums]
        changes = values[len(gradients) : len(gradients) + len(others)]
        reports = values[len(gradients) + len(others) :]
        with placement.with_its_inputs():
            objective.apply(gradients)
            for variable, value in zip(others, changes, strict=True):
                if value is not None:
                    variable.assign_add(value)
            results = objective.results(reports)
        return results, publish(last, taken)

    return update
