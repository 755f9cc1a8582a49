"""Private TensorFlow for datasets that are sent to other processes.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

import base64
from typing import Any

import tensorflow as tf

from tf_backup._tf.private_tensorflow import (
    dataset_options_pb2,
    map_op,
    nested_structure_coder,
    struct_pb2,
    structure,
)
from tf_backup.annotations import Tensor


def dataset_to_graph(dataset: Any) -> Tensor:
    """Return a dataset as a string that another process can read ([] tf.string).

    Raises:
      tf.errors.OpError: if it holds state of this process, as a Python generator does.
    """
    return tf.raw_ops.DatasetToGraphV2(
        input_dataset=tf.data.experimental.to_variant(dataset),
        external_state_policy=1,  # Ignore: a shuffle without a seed draws a new one per worker.
        strip_device_assignment=True,
    )


def calls_python(graph: Tensor) -> bool:
    """Return whether a dataset that `dataset_to_graph` has written calls Python."""
    python = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
    return any(node.op in python for nodes, _ in _bodies(graph) for node in nodes)


def cache_files(graph: Tensor) -> set[str]:
    """Return the names of the files that a dataset caches its elements in.

    Relies on the file's name being the second input of the caching operations.

    Args:
      graph: dataset that `dataset_to_graph` has written.
    """
    found = set()
    for nodes, port in _bodies(graph):
        consts = {node.name + port: node for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op in ("CacheDataset", "CacheDatasetV2") and node.input[1] in consts:
                found.add(_value(consts[node.input[1]]).item().decode())
    return found - {""}


def _bodies(graph: Tensor) -> list[tuple[Any, str]]:
    """Return pairs for a graph and each of its functions: its nodes, and the suffix of outputs."""
    definition = tf.compat.v1.GraphDef.FromString(graph.numpy())
    functions = [(each.node_def, ":output:0") for each in definition.library.function]
    return [(definition.node, ""), *functions]


def in_order(graph: Tensor) -> Tensor:
    """Return a dataset graph in which no operation may produce elements out of order.

    Relies on the attributes `deterministic` and `sloppy` of dataset operations, and on the
    attribute in which `OptionsDataset` has the options. Operations without a choice of their own
    follow the options.

    Args:
      graph: dataset that `dataset_to_graph` has written.
    """
    definition = tf.compat.v1.GraphDef.FromString(graph.numpy())
    bodies = [definition.node, *(each.node_def for each in definition.library.function)]
    for node in [node for nodes in bodies for node in nodes if "Dataset" in node.op]:
        if "deterministic" in node.attr and node.attr["deterministic"].s == b"false":
            node.attr["deterministic"].s = b"true"
        if "sloppy" in node.attr:
            node.attr["sloppy"].b = False
        if node.op == "OptionsDataset":
            options = dataset_options_pb2.Options.FromString(node.attr["serialized_options"].s)
            options.deterministic = True
            node.attr["serialized_options"].s = options.SerializeToString()
    return tf.constant(definition.SerializeToString())


# Index of the first of the two seeds among the inputs of dataset operations.
_SEEDS = {
    "ShuffleDataset": 2,
    "ShuffleDatasetV2": 2,
    "ShuffleDatasetV3": 2,
    "ShuffleAndRepeatDataset": 2,
    "ShuffleAndRepeatDatasetV2": 2,
    "RandomDataset": 0,
    "RandomDatasetV2": 0,
}


def seeded(graph: Tensor, seed: int, passes: int = 0) -> Tensor:
    """Return a dataset graph in which every shuffle that lacks a seed is given one.

    A shuffle with a seed (its own, or from `tf.random.set_seed`) keeps it in the first pass. It has
    a new seed in each later pass, unless it never reshuffles.

    Relies on where `dataset_to_graph` writes seeds, and on 0, 0 standing for no seed.

    Args:
      graph: dataset that `dataset_to_graph` has written.
      seed: seed that makes shuffles the same in every process that uses it.
      passes: number of times that the dataset has already been read from its beginning.
    """
    definition = tf.compat.v1.GraphDef.FromString(graph.numpy())
    changed = False
    bodies = [(definition.node, "")]
    bodies += [(each.node_def, ":output:0") for each in definition.library.function]
    for nodes, port in bodies:
        consts = {node.name + port: node for node in nodes if node.op == "Const"}
        for node in [node for node in nodes if node.op in _SEEDS]:
            seeds = node.input[_SEEDS[node.op] : _SEEDS[node.op] + 2]
            if not all(name in consts for name in seeds):
                continue
            given = [int(_value(consts[name])) for name in seeds]
            if not any(given):
                seed += 1
                given = [seed, seed]
            elif passes and node.attr["reshuffle_each_iteration"].b:
                given[1] += passes
            else:
                continue
            changed = True
            for place, name in enumerate(seeds):
                const = nodes.add()
                const.CopyFrom(consts[name])
                const.name = f"{node.name}_tf_backup_seed_{place}"
                const.attr["value"].tensor.CopyFrom(
                    tf.make_tensor_proto(given[place], tf.int64, [])
                )
                node.input[_SEEDS[node.op] + place] = const.name + port
    return graph if not changed else tf.constant(definition.SerializeToString())


def _value(const: Any) -> Any:
    """Return the value of a Const node."""
    return tf.make_ndarray(const.attr["value"].tensor)


def flat_spec(element_spec: Any) -> list[tuple[str, list[int | None] | None]]:
    """Return the dtype names and the shapes of the tensors that represent an element.

    A ragged or sparse tensor is represented by one variant tensor. Relies on TensorFlow's own
    flattening.
    """
    shapes = structure.get_flat_tensor_shapes(element_spec)
    dtypes = structure.get_flat_tensor_types(element_spec)
    return [
        (dtype.name, None if shape.rank is None else shape.as_list())
        for dtype, shape in zip(dtypes, shapes, strict=True)
    ]


def write_spec(element_spec: Any) -> str:
    """Return the spec of an element as text that another process can read."""
    proto = nested_structure_coder.encode_structure(element_spec)
    return base64.b64encode(proto.SerializeToString()).decode()


def read_spec(text: str) -> Any:
    """Return the spec that `write_spec` has written."""
    proto = struct_pb2.StructuredValue.FromString(base64.b64decode(text))
    return nested_structure_coder.decode_proto(proto)


def components(element: Any) -> list[Any]:
    """Return the dense tensors of an element; from an element's spec, return their specs."""
    return list(tf.nest.flatten(element, expand_composites=True))


def from_queues(wanted: Any, got: Any, element_spec: Any) -> Any:
    """Return a dataset that puts a number into one queue and takes its element from another.

    It does so only when an element is requested. The dataset ends when the second queue is closed.
    Relies on a `map` that may end a dataset.

    Args:
      wanted: a `tf.queue.QueueBase` of int64.
      got: a `tf.queue.QueueBase` of an element's components.
      element_spec: spec of the elements.

    Returns:
      A dataset of flat elements, as `flat_spec` describes them.
    """
    specs = components(element_spec)

    def take(number: Tensor) -> tuple[Tensor, ...]:
        with tf.control_dependencies([wanted.enqueue(number)]):
            taken = got.dequeue()
        parts = taken if isinstance(taken, list) else [taken]
        for part, spec in zip(parts, specs, strict=True):
            part.set_shape(spec.shape)
        element = tf.nest.pack_sequence_as(element_spec, parts, expand_composites=True)
        return tuple(structure.to_tensor_list(element_spec, element))

    numbers = tf.data.Dataset.range(2**60)
    options = tf.data.Options()
    options.autotune.enabled = False  # Otherwise TensorFlow reads ahead.
    options.experimental_optimization.inject_prefetch = False
    return map_op._MapDataset(numbers, take, preserve_cardinality=False).with_options(options)


def resource_of(iterator: Any) -> Tensor:
    """Return the resource handle of a dataset's iterator."""
    return iterator._iterator_resource


def dataset_from_graph(graph: Tensor, element_spec: Any) -> Any:
    """Return the dataset that `dataset_to_graph` has written."""
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph)
    return tf.data.experimental.from_variant(variant, element_spec)


def sleep_before_each(dataset: Any, seconds: float) -> Any:
    """Return `dataset` with a delay of `seconds` before each element."""
    variant = tf.raw_ops.SleepDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        sleep_microseconds=tf.constant(int(seconds * 1e6), tf.int64),
        output_types=tf.nest.flatten(tf.compat.v1.data.get_output_types(dataset)),
        output_shapes=tf.nest.flatten(tf.compat.v1.data.get_output_shapes(dataset)),
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)
