"""Parts of a graph that compute a tensor from some other tensors only.

Relies on how TensorFlow writes graphs: `op_def`, the node attribute `_class` (colocation), and
names of inputs such as `^name` (control dependencies) and `name:1`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup.annotations import Tensor


class Formula(NamedTuple):
    """A computation that is part of a graph."""

    places: Sequence[int]  # indices of the sources that it uses
    compute: Callable[..., Tensor]  # from values of these to the result, in any graph or eagerly


def formula(
    result: Tensor, sources: Sequence[Tensor], others: Sequence[Tensor] = ()
) -> Formula | None:
    """Return the computation of `result` from some of `sources`.

    Args:
      result: a symbolic tensor.
      sources: tensors of the same graph.
      others: tensors of the same graph that will be different, too, but are no sources.

    Returns:
      The computation; None if the result depends on anything else that varies (on an input of the
      graph, for example, or on a random number) or on no source.
    """
    places = {source.name: place for place, source in enumerate(sources)}
    if result.name in places:
        return Formula([places[result.name]], tf.identity)
    varying = {other.name for other in others}
    used: dict[str, int] = {}
    operations: set[str] = set()
    pending = [result]
    while pending:
        tensor = pending.pop()
        if tensor.name in places:
            used[tensor.name] = places[tensor.name]
        elif _varies(tensor.op) or tensor.name in varying:
            return None
        elif tensor.op.name not in operations:
            operations.add(tensor.op.name)
            pending.extend(tensor.op.inputs)
    if not used:
        return None
    return Formula(list(used.values()), _imported(result, list(used), operations))


def _varies(operation: Any) -> bool:
    return operation.type == "Placeholder" or bool(operation.op_def.is_stateful)


def _imported(
    result: Tensor, sources: Sequence[str], operations: set[str]
) -> Callable[..., Tensor]:
    """Return a function that runs copies of the operations."""
    definition = _copied(result.graph.as_graph_def(), operations)

    def compute(*values: Tensor) -> Tensor:
        given = dict(zip(sources, map(tf.convert_to_tensor, values), strict=True))
        return tf.import_graph_def(
            definition, input_map=given, return_elements=[result.name], name="formula"
        )[0]

    # In a graph, not as a function: the graph of an update is to have no more calls.
    of_tensors = tf.function(compute, autograph=False)
    return lambda *values: (of_tensors if tf.executing_eagerly() else compute)(*values)


def _copied(graph: Any, operations: set[str]) -> Any:
    """Return a part of a graph as a graph that can be imported on any device."""
    copied = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
    for node in graph.node:
        if node.name in operations:
            copy = copied.node.add(name=node.name, op=node.op, attr=node.attr)
            copy.attr.pop("_class", None)
            copy.input.extend(name for name in node.input if not name.startswith("^"))
    return copied
