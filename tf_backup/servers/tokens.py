"""Permissions to work on a step: one queue per place, on the first parameter server.

A token names the entry that it is for, and an entry throws older ones away. What a dead client
waits for on a server is not undone: its dequeue stays, and takes the next token. Then it finds that
the token is a later entry's, puts it back, and is gone.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup._tf.named import Name, NamedQueue
from tf_backup.rules import protocol

Tensor = Any

GATE_SERVER = 0  # The parameter server that holds gate and tokens.
DEVICE = runtime.ps_device(GATE_SERVER)

# A worker is never handed a second token before it took the first, except when it died; the next
# one throws it away. Few would do.
_CAPACITY = 1024


class TokenQueues:
    """A queue of tokens for each place.

    Args:
      places: how many.
      name: of the queues on the server.
    """

    def __init__(self, places: int, name: Name) -> None:
        self.resources = [
            NamedQueue(GATE_SERVER, name / str(place), [tf.int64], [[2]], _CAPACITY)
            for place in range(places)
        ]

    def put(self, tokens: Tensor, sizes: Tensor) -> list[Any]:
        """Hands out tokens, in a graph.

        Args:
          tokens: [places, 2] int64: the entry that each is for, and a step, `protocol.STOP` or
            `EXPELLED`.
          sizes: [places, 2] int64: [1, 2] where there is a token, [0, 2] where there is none.

        Returns:
          The operations that do it.
        """
        done = []
        with tf.device(DEVICE):
            for place, size in enumerate(tf.unstack(sizes, len(self.resources))):
                begin = tf.constant([place, 0], tf.int64)
                done.append(self.resources[place].put_many(tf.slice(tokens, begin, size)))
        return done

    def resolve(self, place: Tensor, entry: Tensor, then: Tensor) -> Tensor:
        """Returns what a worker is to do next: `then`, or if that is WAIT, its next token.

        Args:
          place: [] int64, the worker's place.
          entry: [] int64, the number of its entry.
          then: [] int64, what the gate told it.
        """

        def wait() -> Tensor:
            queue = graphs.select([each.handle for each in self.resources], place)
            token = graphs.take_until(queue, lambda token: token[0] >= entry)
            later = token[0] > entry
            # Of no tokens or one.
            back = graphs.put_many(queue, tf.boolean_mask(token[None], later[None]))
            with tf.control_dependencies([back]):
                return tf.where(later, tf.constant(protocol.EXPELLED, tf.int64), token[1])

        with tf.device(DEVICE):
            return tf.cond(tf.equal(then, protocol.WAIT), wait, lambda: then)
