"""Store of contributions on each parameter server, which wait until the chief takes N of them.

A contribution is kept whole, under its ticket, until the chief asks for the tickets of step t.
TensorFlow's own accumulators keep a running sum instead, which cannot be undone: if a worker died
after reaching one server but not the next, an update would contain half of its gradient. The price
is memory for up to N + b contributions: a worker has at most one, since it waits until that is used
or refused. (While workers are missing, `on_shortage="fill"` allows several, of N in all, and one
late one from each.) If contributions are queued, those to an earlier run and those of dead workers
also stay until the next run. The sum is a single pass over the N contributions.

Gradients are sent before the gate is asked, so that asking and delivering are one call. Asking
first would keep the b late gradients of N + b off the network. But on a machine where each tensor
sent costs 0.15 ms, it took three times as long for a step of a small model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup._tf.named import Name
from tf_backup.annotations import Tensor


class Accumulator:
    """Contributions by ticket, on every parameter server that gets a part of them.

    Args:
      specs: for each server, the specs of the buffers of a contribution.
      queued: whether contributions to later steps wait beside those to step t.
      name: name of the map on each server.
    """

    def __init__(
        self, specs: Mapping[int, Sequence[tf.TensorSpec]], queued: bool, name: Name
    ) -> None:
        self._specs = dict(specs)
        self._queued = queued
        self._name = name

    def put(self, ticket: Tensor, buffers: Sequence[Tensor]) -> Any:
        """Store a contribution's part; called in a graph, on the part's server.

        If contributions are queued, this discards the worker's previous one if it is still there:
        the worker was told to continue although that one was not used.

        Args:
          ticket: [] int64, unique to the contribution. The worker's next ticket is 1 higher.
          buffers: the contribution's buffers for the server.

        Returns:
          The operation that stores the part.
        """
        if not buffers:
            return tf.no_op()
        if not self._queued:
            return graphs.stage(self._name, ticket, buffers)
        with tf.control_dependencies([self._discard(ticket - 1, [b.dtype for b in buffers])]):
            return graphs.stage(self._name, ticket, buffers)

    def discard(self, ticket: Tensor, ps: int) -> Any:
        """Discard a contribution's part if it is there; called in a graph, on the part's server."""
        return self._discard(ticket, [spec.dtype for spec in self._specs[ps]])

    def take(self, tickets: Sequence[Tensor], ps: int, least: int) -> list[list[Tensor]]:
        """Take the parts of the contributions of `tickets` on one server, and return them there.

        All of them must have arrived. Those after the first `least` may be below 0: their parts are
        zeros, and no rows of tables. Unless contributions are queued, all others are discarded:
        late and stale ones, and those of workers that died before offering them. No contribution to
        step t + 1 can be there before the update from step t is made.
        """
        specs = self._specs[ps]
        dtypes = [spec.dtype for spec in specs]
        with tf.device(runtime.ps_device(ps)):
            parts = [graphs.unstage(self._name, ticket, dtypes) for ticket in tickets[:least]]
            parts += [self._take_if_there(ticket, specs) for ticket in tickets[least:]]
            done = [part[0] for part in parts]
            if not self._queued:
                with tf.control_dependencies(done):
                    done = [graphs.clear_stage(self._name, dtypes)]
            for part in parts:
                for tensor, spec in zip(part, specs, strict=True):
                    tensor.set_shape(spec.shape)
            with tf.control_dependencies(done):
                return [[tf.identity(tensor) for tensor in part] for part in parts]

    def _take_if_there(self, ticket: Tensor, specs: Sequence[tf.TensorSpec]) -> list[Tensor]:
        dtypes = [spec.dtype for spec in specs]
        nothing = [([size or 0 for size in spec.shape], spec.dtype) for spec in specs]
        parts = tf.cond(
            ticket >= 0,
            lambda: graphs.unstage(self._name, ticket, dtypes),
            lambda: [tf.zeros(shape, dtype) for shape, dtype in nothing],
        )
        return list(parts)

    def clear(self) -> None:
        """Discard all contributions."""
        for ps, specs in self._specs.items():
            with tf.device(runtime.ps_device(ps)):
                graphs.clear_stage(self._name, [spec.dtype for spec in specs])

    def _discard(self, ticket: Tensor, dtypes: Sequence[tf.DType]) -> Any:
        # Taking a missing key would block, so this first stores a value if there is none.
        nothing = [tf.zeros([0], dtype) for dtype in dtypes]
        with tf.control_dependencies([graphs.stage(self._name, ticket, nothing)]):
            return graphs.unstage(self._name, ticket, dtypes)[0].op
