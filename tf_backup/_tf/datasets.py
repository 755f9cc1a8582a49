"""The door to private TensorFlow: data sets that travel to other processes.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

import base64
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import struct_pb2
from tensorflow.python.data.ops import map_op
from tensorflow.python.data.util import structure
from tensorflow.python.saved_model import nested_structure_coder

Tensor = Any  # a tf.Tensor


def dataset_to_graph(dataset: Any) -> Tensor:
    """Returns a data set as a string that another process can read ([] tf.string).

    Raises:
      tf.errors.OpError: if it holds state of this process, as a Python generator does.
    """
    return tf.raw_ops.DatasetToGraphV2(
        input_dataset=tf.data.experimental.to_variant(dataset),
        external_state_policy=1,  # Ignore: a shuffle without a seed draws a new one per worker.
        strip_device_assignment=True,
    )


def calls_python(graph: Tensor) -> bool:
    """Returns whether a data set, as `dataset_to_graph` has written it, calls Python."""
    python = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
    return any(node.op in python for nodes, _ in _bodies(graph) for node in nodes)


def cache_files(graph: Tensor) -> set[str]:
    """Returns the names of the files that a data set caches its elements in.

    Relies on the file's name being the second input of the operations that cache.

    Args:
      graph: as `dataset_to_graph` has written it.
    """
    found = set()
    for nodes, port in _bodies(graph):
        consts = {node.name + port: node for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op in ("CacheDataset", "CacheDatasetV2") and node.input[1] in consts:
                found.add(_value(consts[node.input[1]]).item().decode())
    return found - {""}


def _bodies(graph: Tensor) -> list[tuple[Any, str]]:
    """Returns the nodes of a graph and of each of its functions; how these call a node's output."""
    definition = tf.compat.v1.GraphDef.FromString(graph.numpy())
    functions = [(each.node_def, ":output:0") for each in definition.library.function]
    return [(definition.node, ""), *functions]


# Where operations of data sets have their two seeds among their inputs.
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
    """Returns a data set in whose graph every shuffle without a seed has one.

    One with a seed (its own, or `tf.random.set_seed`'s) keeps it in the first pass, and has another
    in each later one, unless it is never to reshuffle.

    Relies on where `dataset_to_graph` writes seeds, and on 0, 0 standing for none.

    Args:
      graph: as `dataset_to_graph` has written it.
      seed: with the same one, shuffles are the same in every process.
      passes: how often the data set has been read from its beginning before.
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
    """Returns the value of a Const node."""
    return tf.make_ndarray(const.attr["value"].tensor)


def flat_spec(element_spec: Any) -> list[tuple[str, list[int | None] | None]]:
    """Returns the dtypes' names and the shapes of the tensors that stand for an element.

    A ragged or sparse tensor is one of dtype variant. Relies on TensorFlow's own flattening.
    """
    shapes = structure.get_flat_tensor_shapes(element_spec)
    dtypes = structure.get_flat_tensor_types(element_spec)
    return [
        (dtype.name, None if shape.rank is None else shape.as_list())
        for dtype, shape in zip(dtypes, shapes, strict=True)
    ]


def write_spec(element_spec: Any) -> str:
    """Returns the spec of an element as text that another process can read."""
    proto = nested_structure_coder.encode_structure(element_spec)
    return base64.b64encode(proto.SerializeToString()).decode()


def read_spec(text: str) -> Any:
    """Returns the spec that `write_spec` has written."""
    proto = struct_pb2.StructuredValue.FromString(base64.b64decode(text))
    return nested_structure_coder.decode_proto(proto)


def components(element: Any) -> list[Any]:
    """Returns the dense tensors that an element is made of, or their specs, of its spec."""
    return list(tf.nest.flatten(element, expand_composites=True))


def from_queues(wanted: Any, got: Any, element_spec: Any) -> Any:
    """Returns a data set that puts a number into one queue, and takes its element out of another.

    It does so when it is asked for an element, and not before; it ends when the second queue is
    closed. Relies on a `map` that may end a data set.

    Args:
      wanted: a `tf.queue.QueueBase` of int64.
      got: a `tf.queue.QueueBase` of an element's components.
      element_spec: of the elements.

    Returns:
      A data set of flat elements, as `flat_spec` describes them.
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
    options.autotune.enabled = False  # TensorFlow would read ahead.
    options.experimental_optimization.inject_prefetch = False
    return map_op._MapDataset(numbers, take, preserve_cardinality=False).with_options(options)


def resource_of(iterator: Any) -> Tensor:
    """Returns the handle of a data set's iterator."""
    return iterator._iterator_resource


def dataset_from_graph(graph: Tensor, element_spec: Any) -> Any:
    """Returns the data set that `dataset_to_graph` has written."""
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph)
    return tf.data.experimental.from_variant(variant, element_spec)


def sleep_before_each(dataset: Any, seconds: float) -> Any:
    """Returns `dataset`, each of whose elements takes `seconds` longer to come."""
    variant = tf.raw_ops.SleepDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        sleep_microseconds=tf.constant(int(seconds * 1e6), tf.int64),
        output_types=tf.nest.flatten(tf.compat.v1.data.get_output_types(dataset)),
        output_shapes=tf.nest.flatten(tf.compat.v1.data.get_output_shapes(dataset)),
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)
