"""Placement of unplaced operations on the device of their largest input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_backup._tf import graphs
from tf_backup.annotations import Tensor


@contextlib.contextmanager
def with_its_inputs() -> Iterator[None]:
    """Place each operation without a device on the device of its largest input, in a graph.

    TensorFlow would place it on the coordinator, and send the parameters there. Relies on device
    functions, on `FuncGraph.captures` and on the devices of resource handles.
    """
    graph = tf.compat.v1.get_default_graph()

    def place(op: Any) -> str:
        if op.device:
            return str(op.device)
        if not op.inputs:
            return ""
        largest = max(op.inputs, key=_size)
        return _device_of(largest)

    with graph.device(place):
        yield


def _size(tensor: Tensor) -> float:
    """Return a tensor's number of elements; infinity for handles and unknown shapes."""
    if tensor.dtype == tf.resource:
        return float("inf")
    elements = tensor.shape.num_elements()
    return float("inf") if elements is None else float(elements)


def _device_of(tensor: Tensor) -> str:
    """Return the device of a graph's tensor, following the captures of inner graphs."""
    if graphs.is_eager(tensor):
        return str(tensor.device)
    if tensor.op.device:
        return str(tensor.op.device)
    if tensor.op.type == "Placeholder":
        captures = getattr(tensor.graph, "captures", ())
        outside = [external for external, inside in captures if inside.name == tensor.name]
        return _device_of(outside[0]) if outside else ""
    # A variable is read on its own device, though the read operation does not name it.
    resources = [each for each in tensor.op.inputs if each.dtype == tf.resource]
    return _device_of(resources[0]) if resources else ""
