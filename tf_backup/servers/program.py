"""Programs for workers, stored on the first parameter server."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import serialized
from tf_backup._tf.named import Boxed, Name, NamedVariable
from tf_backup.servers.tokens import GATE_SERVER
from tf_backup.worker_data import Pipelines

_programs: weakref.WeakSet[Program] = weakref.WeakSet()


class Program:
    """Functions that the chief has traced and that workers fetch and run, and their data.

    Args:
      functions: concrete functions, by name. The resources that they capture are in `resources`.
      resources: resources that workers find on the servers.
      name: name of the variables that hold the program.
    """

    def __init__(self, functions: Mapping[str, Any], resources: Sequence[Any], name: Name) -> None:
        parts: list[bytes] = []
        for each, function in functions.items():
            parts += serialized.dump(each, function, resources)
        self._name = name
        self._boxes = [resource for resource in resources if isinstance(resource, Boxed)]
        self._text = NamedVariable(GATE_SERVER, name, tf.string, [len(parts)])
        self._text.assign(parts)
        self._graphs: NamedVariable | None = None
        self._data: Pipelines | None = None
        _programs.add(self)

    def job(self, kind: str, data: Pipelines, **more: Any) -> dict[str, Any]:
        """Write the data to the server, and return the job to announce on the board."""
        for box in self._boxes:
            box.fill()
        if self._data is not data:
            self._write(data)
        assert self._graphs is not None
        return {
            "kind": kind,
            "program": self._text.spec(),
            "programs": [program._name.name for program in _programs],
            "data": {**data.describe(), "graphs": self._graphs.spec()},
            **more,
        }

    def forget_data(self) -> None:
        """Delete the data from the server, and empty the program's boxes there."""
        self._graphs = self._data = None
        for box in self._boxes:
            box.empty()

    def _write(self, data: Pipelines) -> None:
        self._graphs = None  # Free the old graphs first: they may be large.
        graphs = NamedVariable(
            GATE_SERVER, self._name / f"data/{data.number}", tf.string, [len(data.graphs)]
        )
        graphs.assign(tf.constant(list(data.graphs), tf.string))
        self._graphs, self._data = graphs, data
