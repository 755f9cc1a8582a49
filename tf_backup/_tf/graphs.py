"""The door to private TensorFlow: what graphs on workers and parameter servers are made of.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import resource_variable_ops

from tf_backup._tf.named import Name
from tf_backup._tf.runtime import calls_as_written, ps_device

Tensor = Any  # a tf.Tensor


# ---- Variables of one computation -------------------------------------------------------------


class LocalVariable(resource_variable_ops.BaseResourceVariable):
    """A variable that is made, used and gone within one run of a graph, on its device.

    To what uses it, it is any `tf.Variable`: gradient tapes watch it, loops may assign to it.
    Relies on variables without a name of their own, which live as long as their handle.

    Args:
      value: its first value, a tensor of static shape.
      trainable: whether gradient tapes watch it by themselves.
      name: for messages.
    """

    def __init__(self, value: Tensor, trainable: bool, name: str) -> None:
        self._refusal: BaseException | None = None
        super().__init__(
            trainable=trainable,
            shape=value.shape,
            dtype=value.dtype,
            handle=resource_variable_ops._variable_handle_from_shape_and_dtype(
                value.shape, value.dtype, context.anonymous_name(), "local", graph_mode=True
            ),
            name=name,
            handle_name=name,
            unique_id=name,
            in_graph_mode=True,
        )
        self.assign(value)
        self.changed = False  # Whether the graph may assign to it after its first value.

    @property
    def handle(self) -> Tensor:
        """The handle that every use of the variable asks for."""
        if self._refusal is not None:
            raise self._refusal
        return self._handle

    def _read_variable_op(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._refusal is not None:
            raise self._refusal  # Here: raised below, from C, it would be a SystemError.
        return super()._read_variable_op(*args, **kwargs)

    def assign(self, *args: Any, **kwargs: Any) -> Any:
        """As `tf.Variable` has it."""
        self.changed = True
        return super().assign(*args, **kwargs)

    def assign_add(self, *args: Any, **kwargs: Any) -> Any:
        """As `tf.Variable` has it."""
        self.changed = True
        return super().assign_add(*args, **kwargs)

    def assign_sub(self, *args: Any, **kwargs: Any) -> Any:
        """As `tf.Variable` has it."""
        self.changed = True
        return super().assign_sub(*args, **kwargs)

    def _lazy_read(self, op: Any) -> Any:
        self.changed = True  # Every scattered update ends here.
        return super()._lazy_read(op)

    def refuse(self, error: BaseException | None) -> None:
        """Lets every use from now on raise `error`; None to allow it again."""
        self._refusal = error


# ---- State on a parameter server --------------------------------------------------------------


def function(python: Callable[..., Any]) -> Any:
    """Returns a `tf.function` of which each engine has one of its own.

    TensorFlow takes those for one that is traced again and again, and warns of it. Relies on
    the way in which Keras keeps such warnings off.
    """
    made = tf.function(python, autograph=False)
    made._omit_frequent_tracing_warning = True
    return made


def on_server(ps: int, function: Callable[..., Any], *args: Any) -> Any:
    """Calls `function` in a graph, as one operation on parameter server `ps`.

    What crosses the network is then its arguments and those of its results that are used
    elsewhere, and nothing else. Operations placed one by one, or a function that TensorFlow
    takes to pieces, send control signals to and fro as well: 34 crossings a turn of the
    workers' loop became 6.
    """
    whole = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    with tf.device(ps_device(ps)), calls_as_written():
        return whole(*args)


@contextlib.contextmanager
def as_data_flows() -> Iterator[None]:
    """Lets the loops and branches made in this context wait for what they use, and nothing else.

    TensorFlow lets each turn of a loop wait for every operation in it that may change something.
    For one on another machine this is a message, although what it returns has come already.
    Relies on the mark by which loops and branches take that over from their graph.
    """
    graph = tf.compat.v1.get_default_graph()
    before = graph._add_control_dependencies
    graph._add_control_dependencies = False
    yield
    graph._add_control_dependencies = before


@contextlib.contextmanager
def changing() -> Iterator[list[Any]]:
    """Yields a list that has, at the end, the operations made in this context that may write.

    What a function returns does not wait for them by itself. Relies on what TensorFlow knows of
    its operations.
    """
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    made: list[Any] = []
    yield made
    for operation in graph.get_operations()[before:]:
        if operation._is_stateful and operation.type not in ("ReadVariableOp", "ResourceGather"):
            made.append(operation)


def here(tensors: Any) -> Any:
    """Returns tensors (a structure of them) on the device of the function that calls this.

    A `tf.while_loop` keeps its variables on the device that their first values come from.
    """
    return tf.nest.map_structure(tf.identity, tensors)


def stage(name: Name, key: Tensor, values: Sequence[Tensor]) -> Any:
    """Keeps `values` under the int64 `key` in the map `name` of the current device.

    A key that is there already keeps its values.
    """
    return tf.raw_ops.MapStage(
        key=key,
        indices=list(range(len(values))),
        values=list(values),
        dtypes=[value.dtype for value in values],
        **name.attributes(),
    )


def unstage(name: Name, key: Tensor, dtypes: Sequence[tf.DType]) -> list[Tensor]:
    """Takes the values under `key` out of the map; blocks a thread until they are there."""
    return list(
        tf.raw_ops.MapUnstage(
            key=key, indices=list(range(len(dtypes))), dtypes=list(dtypes), **name.attributes()
        )
    )


def clear_stage(name: Name, dtypes: Sequence[tf.DType]) -> Any:
    """Empties the map `name` of the current device."""
    return tf.raw_ops.MapClear(dtypes=list(dtypes), **name.attributes())


def select(handles: Sequence[Tensor], index: Tensor) -> Tensor:
    """Returns `handles[index]` of resource handles, for an index known only at run time."""
    return tf.gather(tf.stack(handles), index)


def take_until(queue: Tensor, wanted: Callable[[Tensor], Tensor]) -> Tensor:
    """Takes pairs ([2] int64) from the queue behind a handle until one is wanted; returns it.

    It holds no thread while it waits.

    Args:
      queue: the handle.
      wanted: from a pair to whether it is ([] bool).
    """

    def take() -> Tensor:
        pair = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.int64])[0]
        pair.set_shape([2])
        return pair

    return tf.while_loop(lambda pair: ~wanted(pair), lambda pair: [take()], [take()])[0]


def put_many(queue: Tensor, elements: Tensor) -> Any:
    """Puts elements, stacked, into the queue behind a handle; returns the operation."""
    return tf.raw_ops.QueueEnqueueManyV2(handle=queue, components=[elements])
