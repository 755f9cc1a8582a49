"""Where contributions wait on their parameter server until the chief takes N of them.

A contribution is kept whole, under its ticket, until the chief asks for the tickets of step t.
TensorFlow's own accumulators keep a running sum instead, which cannot be undone: of a worker
that died after it had reached one server and not the next, the update would hold one half. The
price is memory for up to N + b contributions; the sum is one pass over them.

Gradients are sent before the gate is asked, so that asking and delivering are one call: on a
machine where every tensor that crosses costs 0.15 ms, asking first took three times as long for
a step of a small model, and spared the b late gradients of N + b on the wire.
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

    def put(self, ticket: Tensor, flat: Sequence[Tensor], ps: int) -> Any:
        """Keeps a contribution's part on one server; call it there, in a graph.

        Args:
          ticket: [] int64, that no other contribution has.
          flat: the buffers of that server.
          ps: which server.

        Returns:
          The operation that does it.
        """
        if not flat:
            return tf.no_op()
        return _tf.stage(self._name, ticket, flat)

    def flat(self, tensors: Sequence[Tensor], ps: int) -> list[Tensor]:
        """Returns the buffers that a contribution has for one server.

        Args:
          tensors: one per entry of the layout.
          ps: which server.
        """
        return [self.layout.pack(tensors, key) for key in self.layout.keys_on(ps)]

    def take(self, tickets: Sequence[Tensor], ps: int) -> dict[Key, Tensor]:
        """Returns the sum of the contributions of `tickets` on one server, as buffers there.

        They must all have arrived. What else is there (late and stale contributions, and those
        of workers that died before they could offer them) is thrown away: no contribution to
        step t + 1 can be there before the update from step t is made.
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
