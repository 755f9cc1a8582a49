"""A worker: reads theta(t), computes a gradient, asks the gate, delivers, takes a token.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithm 3.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup import protocol
from tf_backup.accumulator import Accumulator
from tf_backup.contribution import Contribution
from tf_backup.gate import Gate
from tf_backup.snapshot import Snapshot

Tensor = Any


def make_loop(
    compute: Any,
    snapshot: Snapshot,
    contribution: Contribution,
    accumulator: Accumulator,
    gate: Gate,
) -> Any:
    """Returns the loop that each worker runs from the beginning of a run to its end.

    One call of a function costs the coordinator about 3 ms: a loop that lasts costs it
    nothing per step.

    Args:
      compute: the objective's concrete function.
      snapshot: of the variables that it reads.
      contribution: how its results travel.
      accumulator: where they go.
      gate: who decides.

    Returns:
      A `tf.function` of the worker's index, the run's number (both [] int64) and an iterator,
      which returns the number of turns that it made ([] int64).
    """

    def turn(
        worker: Tensor, run: Tensor, step: Tensor, batch: Any
    ) -> Tensor:
        with tf.control_dependencies([step]):
            values = snapshot.read()
        seed = tf.stack([worker + 1, step])
        results = compute(values, seed, batch)
        tensors = contribution.tensors(results)
        with tf.control_dependencies(tensors):
            computed = tf.identity(step)
        ticket, then = gate.offer(worker, run, computed)

        def send() -> Tensor:
            with tf.control_dependencies(accumulator.push(ticket, tensors)):
                return gate.deliver(worker, run, tf.identity(ticket))

        then = tf.cond(tf.not_equal(ticket, protocol.NO_TICKET), send, lambda: then)
        return gate.tokens.resolve(worker, then)

    @tf.function(autograph=False)
    def loop(worker: Tensor, run: Tensor, iterator: Any) -> Tensor:
        def body(step: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
            # A data set that ends inside a loop must end the loop, not raise.
            batch = iterator.get_next_as_optional()
            step = tf.cond(
                batch.has_value(),
                lambda: turn(worker, run, step, batch.get_value()),
                lambda: gate.leave(worker, run),
            )
            step.set_shape([])
            return step, turns + 1

        first = gate.tokens.resolve(worker, gate.enter(worker, run))
        first.set_shape([])
        _, turns = tf.while_loop(
            lambda step, turns: step >= 0,
            body,
            [first, tf.constant(0, tf.int64)],
            parallel_iterations=1,
        )
        return turns

    return loop
