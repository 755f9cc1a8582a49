"""Permissions for the chief's loop to make one more update: how far it may run ahead.

The loop runs on the servers, and the coordinator only watches it. It takes a permit before each
update, so that it never makes more than the coordinator has asked for: one, where a callback may
change something between two updates, or many.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs
from tf_backup._tf.named import Name, NamedQueue
from tf_backup.servers.tokens import DEVICE, GATE_SERVER

Tensor = Any

GO, LAST, HALT = 0, 1, 2  # Make an update; make the run's last one; end the loop.

_CAPACITY = 1024


class Permits:
    """The queue of permits on the gate's server.

    Args:
      name: of the queue on the server.
    """

    def __init__(self, name: Name) -> None:
        self._queue = NamedQueue(GATE_SERVER, name, [tf.int64], [[]], _CAPACITY)
        self.grant = graphs.function(self._grant)
        self.revoke = graphs.function(self._revoke)

    def take(self) -> Tensor:
        """Waits for a permit, in a graph on the gate's server; returns it ([] int64)."""
        return self._queue.take()[0]

    def _grant(self, permits: Tensor) -> Tensor:
        """Gives permits ([n] int64); called, as `grant`, eagerly."""
        with tf.device(DEVICE), tf.control_dependencies([self._queue.put_many(permits)]):
            return tf.constant(True)

    def _revoke(self) -> Tensor:
        """Takes back what has not been used yet; returns how many; called eagerly, as `revoke`."""
        with tf.device(DEVICE):
            return tf.size(self._queue.take_many(self._queue.size())[0])
