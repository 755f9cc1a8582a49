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
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_backup import _tf, _tf_graph

Tensor = Any


class Accumulator:
    """Contributions by ticket, on every parameter server that gets a part of them.

    Args:
      specs: of the buffers of a contribution, for each server.
    """

    def __init__(self, specs: Mapping[int, Sequence[tf.TensorSpec]]) -> None:
        self._specs = dict(specs)
        self._name = f"tf_backup/accumulator/{uuid.uuid4().hex}"

    def put(self, ticket: Tensor, buffers: Sequence[Tensor]) -> Any:
        """Keeps a contribution's part; call it on the server that it is for, in a graph.

        Args:
          ticket: [] int64, that no other contribution has.
          buffers: of that server.

        Returns:
          The operation that does it.
        """
        if not buffers:
            return tf.no_op()
        return _tf_graph.stage(self._name, ticket, buffers)

    def take(self, tickets: Sequence[Tensor], ps: int) -> list[list[Tensor]]:
        """Returns the parts of the contributions of `tickets` on one server, there.

        They must all have arrived. What else is there (late and stale contributions, and those
        of workers that died before they could offer them) is thrown away: no contribution to
        step t + 1 can be there before the update from step t is made.
        """
        specs = self._specs[ps]
        dtypes = [spec.dtype for spec in specs]
        with tf.device(_tf.ps_device(ps)):
            parts = [_tf_graph.unstage(self._name, ticket, dtypes) for ticket in tickets]
            with tf.control_dependencies([part[0] for part in parts]):
                cleared = _tf_graph.clear_stage(self._name, dtypes)
            for part in parts:
                for tensor, spec in zip(part, specs, strict=True):
                    tensor.set_shape(spec.shape)
            with tf.control_dependencies([cleared]):
                return [[tf.identity(tensor) for tensor in part] for part in parts]

    def clear(self) -> None:
        """Throws away all contributions."""
        for ps, specs in self._specs.items():
            with tf.device(_tf.ps_device(ps)):
                _tf_graph.clear_stage(self._name, [spec.dtype for spec in specs])
