"""Private TensorFlow for simplifying a graph, which then computes the same with fewer operations.

TensorFlow's graph optimizers work within a function. They run too late when a graph is cut into
functions, where each tensor that crosses from one function to another is a message between servers.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

import graphlib
from typing import Any

import tensorflow as tf

from tf_backup.annotations import GraphDef, NodeDef


def simplified(graph: Any, outputs: list[str]) -> tuple[GraphDef, dict[str, str]]:
    """Remove operations that tie tensors together, duplicate operations, and unused operations.

    `ReplicaContext.all_reduce` ties all gradients together in one `IdentityN`: each would wait for
    all others, and would cross twice. Keras optimizers read the learning rate once per variable.
    Relies on the names of these operations, and on reads of a variable between the same two writes
    having the same control inputs.

    Args:
      graph: the graph.
      outputs: names of the tensors to compute. Operations that change state are kept, too.

    Returns:
      The graph without colocation, and a dict from the names of tensors that were replaced to the
      names of their replacements.
    """
    definition, operations = graph.as_graph_def(), in_order(graph)
    nodes = {node.name: node for node in definition.node}
    stateless = {each.name for each in operations if not each.op_def.is_stateful}
    smaller = tf.compat.v1.GraphDef()
    smaller.versions.CopyFrom(definition.versions)
    smaller.library.CopyFrom(definition.library)
    renamed: dict[str, str] = {}  # Tensors.
    instead: dict[str, list[str]] = {}  # Operations, each with the ones to wait for instead.
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
    """Return a graph without unused stateless nodes."""
    kept = []
    for node in reversed(definition.node):
        if node.name in wanted or node.name not in stateless or node.op == "Placeholder":
            kept.append(node)
            wanted.update(each.lstrip("^").partition(":")[0] for each in node.input)
    smaller = tf.compat.v1.GraphDef(versions=definition.versions, library=definition.library)
    smaller.node.extend(reversed(kept))
    return smaller


def _with_inputs(node: NodeDef, renamed: dict[str, str], instead: dict[str, list[str]]) -> NodeDef:
    """Return a copy of a node in which removed inputs are replaced."""
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
    """Return a key that is equal for nodes that compute the same values."""
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
    """Return the operations of a graph, each after those that it waits for.

    The order is the same in every process, so that a graph is always cut alike.
    """
    operations = {each.name: each for each in graph.get_operations()}
    before = {
        name: dict.fromkeys(
            [each.op.name for each in operation.inputs]
            + [each.name for each in controls(operation)]
        )
        for name, operation in operations.items()
    }
    return [operations[name] for name in graphlib.TopologicalSorter(before).static_order()]


def controls(operation: Any) -> list[Any]:
    """Return an operation's control inputs by name: TensorFlow has them in no fixed order."""
    return sorted(operation.control_inputs, key=lambda each: str(each.name))
