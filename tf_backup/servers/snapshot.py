"""theta(t) as the workers read it: one flat buffer per parameter server and dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup._tf.named import Name, NamedVariable
from tf_backup.servers.packing import Entry, Key, Layout

Tensor = Any
Variable = Any  # a tf.Variable on a parameter server


class Snapshot:
    """Copies of variables, each beside the variables that it copies.

    Only the chief writes it, between the last delivery of step t and the release of the
    tokens of step t + 1. A worker that is so slow as to read while the chief writes sees a
    mixture, but its contribution is late then by the gate's rule, and never used. Where old
    gradients are used, it may be: what a server sends is then of step t or newer, as a whole.

    Args:
      variables: `tf.Variable`s with static shapes, each on a parameter server.
      name: of the buffers on the servers.
    """

    def __init__(self, variables: Sequence[Variable], name: Name) -> None:
        self.variables = list(variables)
        self.layout = Layout(
            [
                Entry(tuple(v.shape), Key(runtime.ps_index(v.device), tf.as_dtype(v.dtype)))
                for v in variables
            ]
        )
        self.publish = graphs.function(self._publish)
        self._buffers = {
            key: NamedVariable(
                key.ps, name / f"{key.ps}/{key.dtype.name}", key.dtype, [self.layout.size(key)]
            )
            for key in self.layout.keys
        }

    @property
    def resources(self) -> list[Any]:
        """What workers find by name."""
        return list(self._buffers.values())

    def write(self, ps: int) -> list[Any]:
        """Copies one server's variables into its buffers, in a graph; returns the operations."""
        done = []
        with tf.device(runtime.ps_device(ps)):
            for key in self.layout.keys_on(ps):
                values = {i: self.variables[i].read_value() for i in self.layout.members[key]}
                packed = self.layout.pack(values, key)
                done.append(self._buffers[key].assign(packed, read_value=False))
        return done

    def _publish(self) -> None:
        """Copies all variables into the buffers; called, as `publish`, eagerly."""
        for ps in self.layout.servers:
            self.write(ps)

    def read(self, ps: int) -> dict[Key, Tensor]:
        """Returns the buffers of one parameter server, there; `layout` unpacks them."""
        with tf.device(runtime.ps_device(ps)):
            return {key: self._buffers[key].read_value() for key in self.layout.keys_on(ps)}

    def read_all(self) -> list[Tensor]:
        """Returns the values of all variables, split where this is called."""
        buffers: dict[Key, Tensor] = {}
        for ps in self.layout.servers:
            buffers.update(self.read(ps))
        return self.layout.unpack_all(buffers)
