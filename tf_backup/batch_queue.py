"""Batches on the first parameter server: the chief puts them in, the next worker takes one out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_backup import _tf, _tf_data, _tf_graph
from tf_backup._tf_named import Name, NamedQueue, open_handle, take
from tf_backup.tokens import GATE_SERVER

Tensor = Any


class BatchQueue:
    """The chief's end. It is traced when it is made, and gone from the server when it is collected.

    Args:
      name: on the server.
      element_spec: of the batches.
      capacity: batches; `put` waits while so many wait for a worker.
    """

    def __init__(self, name: Name, element_spec: Any, capacity: int) -> None:
        self._element_spec = element_spec
        signature = _tf_data.components(element_spec)
        dtypes = [each.dtype for each in signature]
        self._queue = NamedQueue(GATE_SERVER, name, dtypes, None, capacity)
        self._calls = _tf.Cancelable()
        self._put = _tf_graph.function(self._on_server(self._queue.put))
        self._put = self._put.get_concrete_function(*signature)
        self._close = _tf_graph.function(self._on_server(self._queue.close))
        self._close = self._close.get_concrete_function()

    def spec(self) -> dict[str, Any]:
        """Returns what a `BatchReader` needs, as JSON can hold it."""
        return {"queue": self._queue.spec(), "element": _tf_data.write_spec(self._element_spec)}

    def put(self, batch: Any) -> None:
        """Puts a batch in; waits while the queue is full.

        Raises:
          tf.errors.CancelledError: if it is cut off, or the queue closed, meanwhile.
        """
        self._calls(self._put, *_tf_data.components(batch))

    def cut_off(self) -> None:
        """Ends a `put` that waits, and every later one; from another thread."""
        self._calls.cancel()

    def close(self) -> None:
        """Says that no batch will follow: workers take what there is, and come to an end."""
        self._close()

    @staticmethod
    def _on_server(method: Any) -> Any:
        def call(*args: Tensor) -> Tensor:
            def at_server(*args: Tensor) -> Tensor:
                with tf.control_dependencies([method(*args)]):
                    return tf.constant(True)

            return _tf_graph.on_server(GATE_SERVER, at_server, *args)

        return call


class BatchReader:
    """A worker's end.

    A batch is taken when it is asked for and not before: a worker that is lost takes no more than
    one along, and with b = 0 an update uses N batches that follow each other.

    Args:
      spec: as `BatchQueue.spec` has it.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._element_spec = _tf_data.read_spec(spec["element"])
        self._calls = _tf.Cancelable()
        handle = open_handle(spec["queue"])
        dtypes = [each.dtype for each in _tf_data.components(self._element_spec)]
        self._take = _tf_graph.function(
            lambda: _tf_graph.on_server(GATE_SERVER, lambda: take(handle, dtypes, None))
        )

    def dataset(self) -> Any:
        """Returns the batches that this worker takes, until the queue is closed and empty."""
        return _tf_data.from_python(self._batches, self._element_spec)

    def close(self) -> None:
        """Ends a take that waits."""
        self._calls.cancel()

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            try:
                batch = self._calls(self._take)
            except (tf.errors.OutOfRangeError, tf.errors.CancelledError):
                return
            yield tuple(batch)
