"""The door to private TensorFlow: a graph with less in it, which computes the same.

TensorFlow's optimizers of graphs work within a function. What they would remove is still there
when a graph is cut into functions, where each tensor that crosses from one to another is a
message between servers.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

import graphlib
from typing import Any

import tensorflow as tf

GraphDef = Any
NodeDef = Any


def simplified(graph: Any, outputs: list[str]) -> tuple[GraphDef, dict[str, str]]:
    """Removes from a graph what ties tensors together, what is there twice, and what is not used.

    `ReplicaContext.all_reduce` ties all gradients together in one `IdentityN`: each would wait for
    all others, and would cross twice. Keras' optimizers read the learning rate once for each
    variable. Relies on these operations' names, and on reads of a variable that stand between
    the same two writes having the same control inputs.

    Args:
      graph: the graph.
      outputs: the names of the tensors that it is for. What changes state stays, too.

    Returns:
      The graph, without colocation; and, by name, the tensors that are gone although something used
      them, and what to use instead.
    """
    definition, operations = graph.as_graph_def(), in_order(graph)
    nodes = {node.name: node for node in definition.node}
    stateless = {each.name for each in operations if not each.op_def.is_stateful}
    smaller = tf.compat.v1.GraphDef()
    smaller.versions.CopyFrom(definition.versions)
    smaller.library.CopyFrom(definition.library)
    renamed: dict[str, str] = {}  # Tensors.
    instead: dict[str, list[str]] = {}  # Operations, of which others wait for several now.
    seen: dict[Any, str] = {}
    for operation in operations:
        node = _with_inputs(nodes[operation.name], renamed, instead)
        values = [each for each in node.input if not each.startswith("^")]
        if node.op == "IdentityN" and len(values) == len(node.input):
            renamed.update({_tensor(node.name, i): each for i, each in enumerate(values)})
            instead[node.name] = [each.partition(":")[0] for each in values]
            continue
        if node.op == "ReadVariableOp" or (node.name in stateless and node.op != "Placeholder"):
            first = seen.setdefault(_key(node), node.name)
            if first != node.name:
                for index in range(len(operation.outputs)):
                    renamed[_tensor(node.name, index)] = _tensor(first, index)
                instead[node.name] = [first]
                continue
        smaller.node.append(node)
    instead_of = {_full(gone): _full(used) for gone, used in renamed.items()}
    wanted = {instead_of.get(each, each).partition(":")[0] for each in outputs}
    return _used(smaller, stateless, wanted), instead_of


def _used(definition: GraphDef, stateless: set[str], wanted: set[str]) -> GraphDef:
    """Returns a graph without nodes that change nothing and that nothing uses."""
    kept = []
    for node in reversed(definition.node):
        if node.name in wanted or node.name not in stateless or node.op == "Placeholder":
            kept.append(node)
            wanted.update(each.lstrip("^").partition(":")[0] for each in node.input)
    smaller = tf.compat.v1.GraphDef(versions=definition.versions, library=definition.library)
    smaller.node.extend(reversed(kept))
    return smaller


def _with_inputs(node: NodeDef, renamed: dict[str, str], instead: dict[str, list[str]]) -> NodeDef:
    """Returns a copy of a node that takes what is used instead of what is gone."""
    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(node)
    copy.attr.pop("_class", None)
    values = [_short(each) for each in node.input if not each.startswith("^")]
    controls: dict[str, None] = {}
    for each in node.input:
        if each.startswith("^"):
            controls.update(dict.fromkeys(instead.get(each[1:], [each[1:]])))
    del copy.input[:]
    copy.input.extend(renamed.get(each, each) for each in values)
    copy.input.extend(f"^{each}" for each in controls)
    return copy


def _key(node: NodeDef) -> Any:
    """Returns what two nodes share that return the same."""
    values = [each for each in node.input if not each.startswith("^")]
    controls = sorted(each for each in node.input if each.startswith("^"))
    attributes = [
        (name, node.attr[name].SerializeToString(deterministic=True)) for name in node.attr
    ]
    return node.op, node.device, (*values, *controls), tuple(sorted(attributes))


def _tensor(name: str, index: int) -> str:
    return f"{name}:{index}" if index else name


def _short(name: str) -> str:
    return name.removesuffix(":0")


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def in_order(graph: Any) -> list[Any]:
    """Returns the operations of a graph, each behind those that it waits for."""
    operations = {each.name: each for each in graph.get_operations()}
    before = {
        name: {each.op.name for each in operation.inputs}
        | {each.name for each in operation.control_inputs}
        for name, operation in operations.items()
    }
    return [operations[name] for name in graphlib.TopologicalSorter(before).static_order()]
