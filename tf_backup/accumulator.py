"""Where admitted contributions wait on their parameter server until N are there.

A contribution is kept whole, under the ticket of its admission, until the chief asks for the
tickets of step t. TensorFlow's own accumulators keep a running sum instead, which cannot be
undone: a worker that died after it had reached one server and not the next would be part of
the update on the first and not on the second. The price is memory for up to N contributions;
the sum is one pass over them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_backup import _tf
from tf_backup.packing import Key, Layout

Tensor = Any


class Accumulator:
    """Contributions by ticket, on every parameter server of a layout.

    Args:
      layout: of a contribution.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._name = f"tf_backup/accumulator/{uuid.uuid4().hex}"

    def push(self, ticket: Tensor, tensors: Sequence[Tensor]) -> list[Any]:
        """Sends a contribution to the servers; call it on a worker, in a graph.

        Args:
          ticket: [] int64, from the gate.
          tensors: one per entry of the layout.

        Returns:
          Operations that end when the contribution has arrived on each server.
        """
        done = []
        for ps in self.layout.servers:
            keys = self.layout.keys_on(ps)
            flat = [self.layout.pack(tensors, key) for key in keys]
            with tf.device(_tf.ps_device(ps)):
                done.append(_tf.stage(self._name, ticket, flat))
        return done

    def take(self, tickets: Sequence[Tensor], ps: int) -> dict[Key, Tensor]:
        """Returns the sum of the contributions of `tickets` on one server, as buffers there.

        They must all have arrived. What else is there (contributions whose worker died before
        it could say that it had delivered) is thrown away.
        """
        keys = self.layout.keys_on(ps)
        dtypes = [key.dtype for key in keys]
        with tf.device(_tf.ps_device(ps)):
            parts = [_tf.unstage(self._name, ticket, dtypes) for ticket in tickets]
            with tf.control_dependencies([part[0] for part in parts]):
                cleared = _tf.clear_stage(self._name, dtypes)
            sums = {}
            for place, key in enumerate(keys):
                column = [part[place] for part in parts]
                for tensor in column:
                    tensor.set_shape([self.layout.size(key)])
                with tf.control_dependencies([cleared]):
                    sums[key] = tf.add_n(column)
        return sums

    def clear(self) -> None:
        """Throws away all contributions."""
        for ps in self.layout.servers:
            with tf.device(_tf.ps_device(ps)):
                _tf.clear_stage(self._name, [key.dtype for key in self.layout.keys_on(ps)])

    def waiting(self) -> list[int]:
        """Returns how many contributions wait on each server."""
        sizes = []
        for ps in self.layout.servers:
            with tf.device(_tf.ps_device(ps)):
                dtypes = [key.dtype for key in self.layout.keys_on(ps)]
                sizes.append(int(_tf.stage_size(self._name, dtypes)))
        return sizes
