"""Comparison of a file of weights with a model, for messages about files of other models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py

_SHOWN = 3  # A foreign file differs in most variables.


class Entry(NamedTuple):
    """A variable in a file.

    Attributes:
      owner: name of the layer or optimizer that owns it.
      number: its position among those of its owner, from 0; -1 if it is not known.
      shape: its shape.
    """

    owner: str
    number: int
    shape: tuple[int, ...]


def difference(model: Any, path: str) -> str:
    """Return which variables of a model and a file differ, by name and shape; "" if none do.

    Raises:
      OSError: if the file cannot be read, or a temporary one cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = os.path.join(folder, "own.weights.h5")  # As Keras would write the model.
        model.save_weights(own)
        found = list(_differences(model, _entries(path), _entries(own)))
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"and {len(found) - _SHOWN} more differ"]
    return "; ".join(found)


def _entries(path: str) -> dict[str, Entry]:
    """Return the variables of a file, by their paths in it."""
    entries = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            index = name.rpartition("/")[2]
            owner = str(item.parent.attrs.get("name", ""))
            entries[name] = Entry(owner, int(index) if index.isdecimal() else -1, item.shape)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return entries


def _differences(model: Any, file: dict[str, Entry], own: dict[str, Entry]) -> Iterator[str]:
    for place, entry in own.items():
        theirs = file.get(place)
        if theirs is None:
            yield f"{_name(model, place, entry)} {entry.shape} is not in the file"
        elif theirs.shape != entry.shape:
            name = _name(model, place, entry)
            yield f"{name} is {theirs.shape} in the file and {entry.shape} in the model"
    for place, entry in file.items():
        if place not in own:
            yield f"{place} {entry.shape} of the file is not in the model"


def _name(model: Any, place: str, entry: Entry) -> str:
    """Return the path of a model's variable, or its place in the file where that is not known."""
    variables = [*model.variables, *model.optimizer.variables]
    paths = [each.path for each in variables if each.path.split("/")[-2:-1] == [entry.owner]]
    return paths[entry.number] if 0 <= entry.number < len(paths) else place
