"""Private TensorFlow for graphs that one process traces and another one runs.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import client_calls
from tf_backup._tf.named import Boxed, Named, NamedVariable, open_handle
from tf_backup.annotations import Tensor

Resource = Named | NamedVariable | Boxed


def dump(name: str, function: Any, resources: Sequence[Resource]) -> tuple[bytes, bytes]:
    """Serialize a concrete function as a description (JSON) and a graph.

    Args:
      name: name that `load` returns.
      function: a concrete function of tensors.
      resources: resources that the function may capture. It may also capture tensors of this
        process, whose values are copied.

    Raises:
      ValueError: if the function captures anything else.
    """
    graph = function.graph
    known = {id(resource.handle): resource for resource in resources}
    captured, values = [], {}
    for outside, inside in graph.captures:
        if id(outside) in known:
            captured.append({"tensor": inside.name, "resource": known[id(outside)].spec()})
        elif outside.dtype in (tf.resource, tf.variant):
            raise ValueError(
                f"the workers' program uses {outside}, which only the chief's process has."
            )
        else:
            values[inside.op.name] = outside.numpy()
    inputs = graph.inputs[: len(graph.inputs) - len(graph.captures)]
    description = {
        "name": name,
        "inputs": [
            {"tensor": each.name, "dtype": each.dtype.name, "shape": _shape(each)}
            for each in inputs
        ],
        "outputs": [each.name for each in graph.outputs],
        "captured": captured,
    }
    return json.dumps(description).encode(), _with_values(graph, values).SerializeToString()


def load(description: bytes, graph: bytes) -> tuple[str, Callable[..., list[Tensor]]]:
    """Load a function that `dump` has serialized, and return its name and the function.

    The loaded function takes the flat tensors that the traced function took, and returns a list of
    tensors on the device of this process.
    """
    about = json.loads(description)
    definition = tf.compat.v1.GraphDef.FromString(graph)

    def rebuild(*args: Tensor) -> list[Tensor]:
        names = [each["tensor"] for each in about["inputs"]]
        known = dict(zip(names, args, strict=True))
        for each in about["captured"]:
            known[each["tensor"]] = open_handle(each["resource"])
        results: list[Tensor] = tf.import_graph_def(
            definition, input_map=known, return_elements=about["outputs"], name=""
        )
        return list(client_calls.brought(results))

    signature = [
        tf.TensorSpec(each["shape"], tf.as_dtype(each["dtype"])) for each in about["inputs"]
    ]
    wrapped = tf.compat.v1.wrap_function(rebuild, signature)

    def run(*args: Tensor) -> list[Tensor]:
        return list(tf.nest.flatten(wrapped(*args)))

    return str(about["name"]), run


def _with_values(graph: Any, values: dict[str, Any]) -> Any:
    """Return the definition of a graph, with the placeholders in `values` as constants."""
    definition = graph.as_graph_def()
    for node in definition.node:
        if node.name in values:
            node.op = "Const"
            node.attr.clear()
            value = tf.make_tensor_proto(values[node.name])
            node.attr["dtype"].type = value.dtype
            node.attr["value"].tensor.CopyFrom(value)
    return definition


def _shape(tensor: Tensor) -> list[int | None] | None:
    return None if tensor.shape.rank is None else tensor.shape.as_list()
