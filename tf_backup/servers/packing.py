"""Packing of many tensors into a few: flat tensors, each for one parameter server and dtype.

Each tensor sent between a worker and a server costs a remote call of its own. So all tensors to or
from one server travel in one buffer per dtype, or in a few if there is much to send: gradients of
the last layers then travel while those of the first are computed, and the first layers compute
while parameters of the last travel.

Each tensor begins at a multiple of 64 bytes. TensorFlow then unpacks a buffer without copying it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_backup.annotations import Tensor

_ALIGNMENT = 64  # Bytes; TensorFlow shares memory with slices that begin and end at multiples.
_SMALL = 2**15  # Bytes; a part smaller than this costs more than it saves.
_LARGE = 2**19  # Bytes; tensors are divided into parts if there are more.
_MOST_PARTS = 8


class Key(NamedTuple):
    """Key of a buffer: its parameter server and dtype, and its number among these."""

    ps: int
    dtype: tf.DType
    part: int = 0


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a layout: its static shape, and the key of its buffer."""

    shape: tuple[int, ...]
    key: Key

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def aligned_size(self) -> int:
        """Number of elements that it takes in a buffer."""
        return -(-self.size // _row(self.key.dtype)) * _row(self.key.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in a buffer."""
        return self.aligned_size * int(self.key.dtype.size)


def in_parts(entries: Sequence[Entry]) -> list[Entry]:
    """Divide what belongs to one server and dtype into parts, in the order of the list.

    A part is a buffer of its own. There are up to 8, of 512 KiB or more; but a tensor is never
    divided, and does not wait for smaller ones of 32 KiB or more.
    """
    divided = list(entries)
    for key in {entry.key: None for entry in entries}:
        members = [index for index, entry in enumerate(entries) if entry.key == key]
        sizes = [entries[index].nbytes for index in members]
        for index, part in zip(members, _parts(sizes), strict=True):
            divided[index] = dataclasses.replace(entries[index], key=key._replace(part=part))
    return divided


def _parts(sizes: Sequence[int]) -> list[int]:
    """Return the number of the part of each tensor, given their bytes."""
    most = max(_LARGE, -(-sum(sizes) // _MOST_PARTS))
    parts: list[int] = []
    part, filled, left = 0, 0, sum(sizes)
    for size in sizes:
        if filled >= _SMALL and filled + size > most and left >= _SMALL:
            part, filled = part + 1, 0
        parts.append(part)
        filled += size
        left -= size
    return parts


def _row(dtype: tf.DType) -> int:
    """Return the number of elements in 64 bytes."""
    return int(_ALIGNMENT // max(dtype.size, 1))  # Strings have no size.


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
        return sum(self.entries[index].aligned_size for index in self.members[key])

    @property
    def nbytes(self) -> int:
        """Total bytes of all buffers, which is the traffic of one read or one contribution."""
        return sum(entry.nbytes for entry in self.entries)

    def pack(self, tensors: Sequence[Tensor] | Mapping[int, Tensor], key: Key) -> Tensor:
        """Pack tensors into the buffer `key`: [size(key)], of the key's dtype.

        Args:
          tensors: one tensor per entry, or tensors by index; those of other buffers are ignored.
          key: key of the buffer.
        """
        parts = []
        for index in self.members[key]:
            parts.append(tf.reshape(tf.cast(tensors[index], key.dtype), [-1]))
            gap = self.entries[index].aligned_size - self.entries[index].size
            if gap:
                parts.append(tf.zeros([gap], key.dtype))
        return tf.concat(parts, axis=0) if len(parts) > 1 else parts[0]

    def unpack(self, buffer: Tensor, key: Key) -> dict[int, Tensor]:
        """Return the tensors in a buffer, by their index in the list."""
        entries = {index: self.entries[index] for index in self.members[key]}
        row = _row(key.dtype)
        rows = tf.reshape(buffer, [-1, row])  # Slices of rows share its memory.
        pieces = tf.split(rows, [entry.aligned_size // row for entry in entries.values()])
        found = {}
        for (index, entry), piece in zip(entries.items(), pieces, strict=True):
            if entry.size < entry.aligned_size:
                piece = tf.reshape(piece, [-1])[: entry.size]
            found[index] = tf.reshape(piece, entry.shape)
        return found

    def unpack_all(self, buffers: dict[Key, Tensor]) -> list[Tensor]:
        """Return all tensors, in the order of the list."""
        tensors: dict[int, Tensor] = {}
        for key in self.members:
            tensors.update(self.unpack(buffers[key], key))
        return [tensors[index] for index in range(len(self.entries))]
