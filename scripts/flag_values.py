"""Values of a command's flags, read once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read(kind: type[T], defaults: Mapping[str, Any] | None = None) -> T:
    """Return a dataclass with the values of the flags that have the names of its fields.

    Args:
      kind: the dataclass.
      defaults: values of flags that are not given, in place of their own defaults.
    """
    instead = defaults or {}
    values = {}
    for name in [field.name for field in dataclasses.fields(kind)]:
        flag = flags.FLAGS[name]
        own = flag.value
        values[name] = instead.get(name, own) if flag.using_default_value else own
    return kind(**values)
