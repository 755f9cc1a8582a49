"""The chief: takes the mean of N gradients, updates, publishes, releases.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithm 4.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup import _tf
from tf_backup.accumulator import Accumulator
from tf_backup.contribution import Contribution
from tf_backup.gate import Gate
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
      ([] bool), which returns the objective's results.
    """

    def totals(tickets: Tensor) -> list[Tensor | None]:
        """Returns the mean (or sum) for every target, None where workers send nothing."""
        each = tf.unstack(tickets, gate.policy.replicas)
        buffers = {}
        for ps in contribution.layout.servers:
            buffers.update(accumulator.take(each, ps))
        return contribution.totals(buffers)

    @tf.function(autograph=False)
    def update(tickets: Tensor, last: Tensor) -> Any:
        values = totals(tickets)
        gradients = values[: len(objective.trainable)]
        with _tf.with_its_inputs():
            objective.apply(gradients)
            for variable, value in zip(
                [*objective.state, *objective.sums], values[len(gradients) :], strict=True
            ):
                if value is not None:
                    variable.assign_add(value)
            results = objective.results()
        with tf.control_dependencies(snapshot.write()):
            released = gate.complete_step(last)
        with tf.control_dependencies([released]):
            return tf.nest.map_structure(tf.identity, results)

    return update
