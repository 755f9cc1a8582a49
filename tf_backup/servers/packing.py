"""Packing of many tensors into a few: one flat tensor per parameter server and dtype.

Each tensor sent between a worker and a server costs a remote call of its own. So all tensors to or
from one server travel as one buffer per dtype.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Tensor = Any


class Key(NamedTuple):
    """Key of a buffer: its parameter server and dtype."""

    ps: int
    dtype: tf.DType


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a layout: its static shape, and the key of its buffer."""

    shape: tuple[int, ...]
    key: Key

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Layout:
    """Layout of a list of tensors in buffers.

    Args:
      entries: the tensors' shapes and buffers, in the order of the list.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.members: dict[Key, list[int]] = {}
        for index, entry in enumerate(self.entries):
            self.members.setdefault(entry.key, []).append(index)

    @property
    def keys(self) -> list[Key]:
        """The buffers, in a fixed order."""
        return list(self.members)

    @property
    def servers(self) -> list[int]:
        """The parameter servers that hold at least one of the tensors."""
        return sorted({key.ps for key in self.members})

    def keys_on(self, ps: int) -> list[Key]:
        """Return the buffers of one parameter server, in a fixed order."""
        return [key for key in self.members if key.ps == ps]

    def size(self, key: Key) -> int:
        """Return the number of elements of a buffer."""
        return sum(self.entries[index].size for index in self.members[key])

    @property
    def nbytes(self) -> int:
        """Total bytes of all buffers, which is the traffic of one read or one contribution."""
        return sum(entry.size * entry.key.dtype.size for entry in self.entries)

    def pack(self, tensors: Sequence[Tensor] | Mapping[int, Tensor], key: Key) -> Tensor:
        """Pack tensors into the buffer `key`: [size(key)], of the key's dtype.

        Args:
          tensors: one tensor per entry, or tensors by index; those of other buffers are ignored.
          key: key of the buffer.
        """
        parts = [
            tf.reshape(tf.cast(tensors[index], key.dtype), [-1]) for index in self.members[key]
        ]
        return tf.concat(parts, axis=0) if len(parts) > 1 else parts[0]

    def unpack(self, buffer: Tensor, key: Key) -> dict[int, Tensor]:
        """Return the tensors in a buffer, by their index in the list."""
        indices = self.members[key]
        pieces = tf.split(buffer, [self.entries[index].size for index in indices])
        return {
            index: tf.reshape(piece, self.entries[index].shape)
            for index, piece in zip(indices, pieces, strict=True)
        }

    def unpack_all(self, buffers: dict[Key, Tensor]) -> list[Tensor]:
        """Return all tensors, in the order of the list."""
        tensors: dict[int, Tensor] = {}
        for key in self.members:
            tensors.update(self.unpack(buffers[key], key))
        return [tensors[index] for index in range(len(self.entries))]
