"""Where contributions wait on their parameter server until the chief takes N of them.

A contribution is kept whole, under its ticket, until the chief asks for the tickets of step t.
TensorFlow's own accumulators keep a running sum instead, which cannot be undone: of a worker
that died after it had reached one server and not the next, the update would hold one half. The
price is memory for up to N + b contributions (a worker has one at most, since it waits until that
is used or refused), and in a queue also for those that workers sent to an earlier run or died
over, until the next run; the sum is one pass over them.

Gradients are sent before the gate is asked, so that asking and delivering are one call: on a
machine where every tensor that crosses costs 0.15 ms, asking first took three times as long for
a step of a small model, and spared the b late gradients of N + b on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup._tf.named import Name

Tensor = Any


class Accumulator:
    """Contributions by ticket, on every parameter server that gets a part of them.

    Args:
      specs: of the buffers of a contribution, for each server.
      queued: whether contributions to later steps wait beside those to step t.
      name: of the map on each server.
    """

    def __init__(
        self, specs: Mapping[int, Sequence[tf.TensorSpec]], queued: bool, name: Name
    ) -> None:
        self._specs = dict(specs)
        self._queued = queued
        self._name = name

    def put(self, ticket: Tensor, buffers: Sequence[Tensor]) -> Any:
        """Keeps a contribution's part; call it on the server that it is for, in a graph.

        Where contributions are queued, it throws away the one before, if that is there still:
        its worker was told to go on without its being used.

        Args:
          ticket: [] int64, that no other contribution has; of the worker's next one, 1 more.
          buffers: of that server.

        Returns:
          The operation that does it.
        """
        if not buffers:
            return tf.no_op()
        if not self._queued:
            return graphs.stage(self._name, ticket, buffers)
        with tf.control_dependencies([self._discard(ticket - 1, [b.dtype for b in buffers])]):
            return graphs.stage(self._name, ticket, buffers)

    def discard(self, ticket: Tensor, ps: int) -> Any:
        """Throws away a contribution's part, if it is there; call it on its server, in a graph."""
        return self._discard(ticket, [spec.dtype for spec in self._specs[ps]])

    def take(self, tickets: Sequence[Tensor], ps: int) -> list[list[Tensor]]:
        """Returns the parts of the contributions of `tickets` on one server, there.

        They must all have arrived. Unless contributions are queued, what else is there (late and
        stale ones, and those of workers that died before they could offer them) is thrown away:
        no contribution to step t + 1 can be there before the update from step t is made.
        """
        specs = self._specs[ps]
        dtypes = [spec.dtype for spec in specs]
        with tf.device(runtime.ps_device(ps)):
            parts = [graphs.unstage(self._name, ticket, dtypes) for ticket in tickets]
            done = [part[0] for part in parts]
            if not self._queued:
                with tf.control_dependencies(done):
                    done = [graphs.clear_stage(self._name, dtypes)]
            for part in parts:
                for tensor, spec in zip(part, specs, strict=True):
                    tensor.set_shape(spec.shape)
            with tf.control_dependencies(done):
                return [[tf.identity(tensor) for tensor in part] for part in parts]

    def clear(self) -> None:
        """Throws away all contributions."""
        for ps, specs in self._specs.items():
            with tf.device(runtime.ps_device(ps)):
                graphs.clear_stage(self._name, [spec.dtype for spec in specs])

    def _discard(self, ticket: Tensor, dtypes: Sequence[tf.DType]) -> Any:
        # To take what is not there would block: so first there is something.
        nothing = [tf.zeros([0], dtype) for dtype in dtypes]
        with tf.control_dependencies([graphs.stage(self._name, ticket, nothing)]):
            return graphs.unstage(self._name, ticket, dtypes)[0].op
