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

    def totals(tickets: Tensor) -> tuple[list[Tensor | None], list[Tensor]]:
        """Returns the mean (or sum) for every target, None where workers send nothing.

        Returns also, from each server, a sign that the contributions to step t are out of it.
        """
        buffers: dict[Key, Tensor] = {}
        taken = []
        for ps in contribution.layout.servers:

            def take(tickets: Tensor, ps: int = ps) -> tuple[Tensor, list[Tensor]]:
                each = tf.unstack(tickets, gate.policy.replicas)
                sums = list(accumulator.take(each, ps).values())
                with tf.control_dependencies(sums):
                    return tf.constant(True), sums

            keys = contribution.layout.keys_on(ps)
            done, sums = _tf.on_server(ps, take, tickets)
            taken.append(done)
            buffers.update(zip(keys, sums, strict=True))
        return contribution.totals(buffers), taken

    def publish(last: Tensor, taken: list[Tensor]) -> Tensor:
        """Publishes theta(t + 1), then releases the workers; returns t + 1.

        Not before every server has cleared step t away, also those that publish nothing: a
        contribution to step t + 1 could be there already, and be cleared away with it.
        """

        def write(ps: int) -> Tensor:
            def at_server() -> Tensor:
                with tf.control_dependencies(snapshot.write(ps)):
                    return tf.constant(True)

            return _tf.on_server(ps, at_server)

        def release(last: Tensor, written: list[Tensor]) -> Tensor:
            with tf.control_dependencies([*snapshot.write(GATE_SERVER), *written]):
                return gate.complete_step(last)

        written = [write(ps) for ps in servers if ps != GATE_SERVER]
        return _tf.on_server(GATE_SERVER, release, last, [*written, *taken])

    @tf.function(autograph=False)
    def update(tickets: Tensor, last: Tensor) -> Any:
        values, taken = totals(tickets)
        gradients = values[: len(objective.trainable)]
        others = [*objective.state, *objective.sums]
        with placement.with_its_inputs():
            objective.apply(gradients)
            for variable, value in zip(others, values[len(gradients) :], strict=True):
                if value is not None:
                    variable.assign_add(value)
            results = objective.results()
        return results, publish(last, taken)

    return update
