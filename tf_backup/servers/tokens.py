"""Tokens, which permit work on a step: one queue per place, on the first parameter server.

A token names its entry, and a worker discards tokens of older entries. The dequeue of a dead client
is not cancelled: it stays on the server and takes the next token. It then finds that the token is
for a later entry, puts it back, and ends.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup._tf.named import Name, NamedQueue
from tf_backup.annotations import Tensor
from tf_backup.rules import protocol

GATE_SERVER = 0  # The parameter server that holds gate and tokens.
DEVICE = runtime.ps_device(GATE_SERVER)

# A place gets a second token before its first is taken only if its worker died, and the next worker
# discards the first. So a small capacity would do.
_CAPACITY = 1024


class TokenQueues:
    """A queue of tokens for each place.

    Args:
      places: number of places.
      name: name of the queues on the server.
    """

    def __init__(self, places: int, name: Name) -> None:
        self.resources = [
            NamedQueue(GATE_SERVER, name / str(place), [tf.int64], [[2]], _CAPACITY)
            for place in range(places)
        ]

    def put(self, tokens: Tensor, sizes: Tensor) -> list[Any]:
        """Put tokens into the queues, in a graph.

        Args:
          tokens: [places, 2] int64: for each place an entry, and a step, `protocol.STOP` or
            `EXPELLED`.
          sizes: [places, 2] int64: [1, 2] for a place that gets its token, else [0, 2].

        Returns:
          The enqueue operations.
        """
        done = []
        with tf.device(DEVICE):
            for place, size in enumerate(tf.unstack(sizes, len(self.resources))):
                begin = tf.constant([place, 0], tf.int64)
                done.append(self.resources[place].put_many(tf.slice(tokens, begin, size)))
        return done

    def resolve(self, place: Tensor, entry: Tensor, then: Tensor) -> Tensor:
        """Return a worker's next action: `then`, or its next token if `then` is WAIT.

        Args:
          place: [] int64, the worker's place.
          entry: [] int64, the number of its entry.
          then: [] int64, the gate's answer to the worker.
        """

        def wait() -> Tensor:
            queue = graphs.select([each.handle for each in self.resources], place)
            token = graphs.take_until(queue, lambda token: token[0] >= entry)
            whose, step = tf.unstack(token)
            later = whose > entry
            # Puts back one token, or none.
            copies = tf.stack([tf.cast(later, tf.int32), 1])
            back = graphs.put_many(queue, tf.tile(tf.expand_dims(token, 0), copies))
            with tf.control_dependencies([back]):
                return tf.where(later, tf.constant(protocol.EXPELLED, tf.int64), step)

        with tf.device(DEVICE):
            return tf.cond(tf.equal(then, protocol.WAIT), wait, lambda: then)
