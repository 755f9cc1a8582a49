"""Permits for the chief's loop to make one more update, which limit how far it runs ahead.

The loop runs on the servers, and the coordinator only watches it. The loop takes a permit before
each update, so it never makes more updates than the coordinator has permitted: one if a callback
may change something between two updates, else many.
"""

from __future__ import annotations

import tensorflow as tf

from tf_backup._tf import client_calls
from tf_backup._tf.named import Name, NamedQueue
from tf_backup.annotations import Tensor
from tf_backup.servers.tokens import DEVICE, GATE_SERVER

GO, LAST, HALT = 0, 1, 2  # Make an update; make the run's last update; end the loop.

_CAPACITY = 1024


class Permits:
    """The queue of permits on the gate's server.

    Args:
      name: name of the queue on the server.
    """

    def __init__(self, name: Name) -> None:
        self._queue = NamedQueue(GATE_SERVER, name, [tf.int64], [[]], _CAPACITY)

    def take(self) -> Tensor:
        """Wait for a permit, in a graph on the gate's server, and return it ([] int64)."""
        return self._queue.take()[0]

    @client_calls.called_eagerly
    def grant(self, permits: Tensor) -> Tensor:
        """Grant permits ([n] int64)."""
        with tf.device(DEVICE), tf.control_dependencies([self._queue.put_many(permits)]):
            return tf.constant(True)

    @client_calls.called_eagerly
    def revoke(self) -> Tensor:
        """Take back unused permits, and return their number."""
        with tf.device(DEVICE):
            return tf.size(self._queue.take_many(self._queue.size())[0])
