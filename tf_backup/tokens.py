"""Permissions to work on a step: one queue per worker, on the first parameter server.

With one queue for all, as TF1 has it, a dead worker's token stays and is taken by somebody
else, who then starts with an old step. With a queue of its own a worker finds only what was
meant for it, and the gate empties that queue when the worker comes back.
"""

from __future__ import annotations

import uuid
from typing import Any

import tensorflow as tf

from tf_backup import _tf, _tf_graph, protocol

Tensor = Any

GATE_SERVER = 0  # The parameter server that holds gate and tokens.
DEVICE = _tf.ps_device(GATE_SERVER)

# A worker is never handed a second token before it took the first, except when it died; what
# it then finds is emptied when it enters. Few would do.
_CAPACITY = 1024


class TokenQueues:
    """A queue of tokens for each worker.

    Args:
      workers: how many.
    """

    def __init__(self, workers: int) -> None:
        name = f"tf_backup/tokens/{uuid.uuid4().hex}"
        with tf.device(DEVICE):
            self._queues = [
                tf.queue.FIFOQueue(_CAPACITY, [tf.int64], [[]], shared_name=f"{name}/{worker}")
                for worker in range(workers)
            ]

    def put(self, tokens: Tensor) -> list[Any]:
        """Hands out tokens, in a graph.

        Args:
          tokens: [workers] int64: a step, `protocol.STOP`, or `protocol.WAIT` for no token.

        Returns:
          The operations that do it.
        """
        done = []
        with tf.device(DEVICE):
            for worker, queue in enumerate(self._queues):
                mine = tokens[worker : worker + 1]
                done.append(queue.enqueue_many(tf.boolean_mask(mine, mine != protocol.WAIT)))
        return done

    def resolve(self, worker: Tensor, then: Tensor) -> Tensor:
        """Returns what a worker is to do next: `then`, or if that is WAIT, its next token.

        Args:
          worker: [] int64, its index.
          then: [] int64, what the gate told it.
        """
        with tf.device(DEVICE):
            return tf.cond(
                tf.equal(then, protocol.WAIT),
                lambda: _tf_graph.dequeue(_tf_graph.select_queue(self._queues, worker)),
                lambda: then,
            )

    def drain(self, worker: Tensor) -> Any:
        """Empties a worker's queue; returns the operation."""
        with tf.device(DEVICE):
            return _tf_graph.drain(_tf_graph.select_queue(self._queues, worker))
