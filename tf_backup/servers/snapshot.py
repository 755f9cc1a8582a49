"""Snapshot of theta(t) that workers read: flat buffers on each parameter server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import client_calls, runtime
from tf_backup._tf.named import Name, NamedVariable
from tf_backup.annotations import Tensor, Variable
from tf_backup.servers.packing import Entry, Key, Layout, in_parts


class Snapshot:
    """Copies of variables, each on the server of its variable.

    Only the chief writes the snapshot, after the last delivery of step t and before it hands out
    tokens of step t + 1. A worker so slow that it reads during the write sees a mixture, but its
    contribution is then late by the gate's rules, and never used. With `max_staleness` above 0 it
    may be used: each buffer is then of step t or newer.

    Args:
      variables: `tf.Variable`s with static shapes, each on a parameter server.
      name: name of the buffers on the servers.
    """

    def __init__(self, variables: Sequence[Variable], name: Name) -> None:
        self.variables = list(variables)
        entries = [
            Entry(tuple(v.shape), Key(runtime.ps_index(v.device), tf.as_dtype(v.dtype)))
            for v in variables
        ]
        self.layout = Layout(in_parts(entries))
        self._buffers = {
            key: NamedVariable(
                key.ps,
                name / f"{key.ps}/{key.dtype.name}/{key.part}",
                key.dtype,
                [self.layout.size(key)],
            )
            for key in self.layout.keys
        }

    @property
    def resources(self) -> list[Any]:
        """The resources that workers find by name."""
        return list(self._buffers.values())

    def write(self, ps: int) -> list[Any]:
        """Copy one server's variables into its buffers, in a graph; return the operations."""
        done = []
        with tf.device(runtime.ps_device(ps)):
            for key in self.layout.keys_on(ps):
                values = {i: self.variables[i].read_value() for i in self.layout.members[key]}
                packed = self.layout.pack(values, key)
                done.append(self._buffers[key].assign(packed, read_value=False))
        return done

    @client_calls.called_eagerly
    def publish(self) -> None:
        """Copy all variables into the buffers."""
        for ps in self.layout.servers:
            self.write(ps)

    def read(self, ps: int) -> dict[Key, Tensor]:
        """Return the buffers of one parameter server, on that server; `layout` unpacks them."""
        with tf.device(runtime.ps_device(ps)):
            return {key: self._buffers[key].read_value() for key in self.layout.keys_on(ps)}

    def read_all(self) -> list[Tensor]:
        """Return the values of all variables, unpacked on the caller's device."""
        buffers: dict[Key, Tensor] = {}
        for ps in self.layout.servers:
            buffers.update(self.read(ps))
        return self.layout.unpack_all(buffers)
