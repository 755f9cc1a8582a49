"""Values of a command's flags, read once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

from absl import flags

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read(kind: type[T]) -> T:
    """Return a dataclass with the values of the flags that have the names of its fields."""
    return kind(**{each.name: getattr(flags.FLAGS, each.name) for each in dataclasses.fields(kind)})
