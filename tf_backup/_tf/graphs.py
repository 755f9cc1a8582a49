"""Private TensorFlow for building graphs that run on workers and parameter servers.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf.named import Name
from tf_backup._tf.private_tensorflow import context, resource_variable_ops
from tf_backup._tf.runtime import calls_as_written, ps_device
from tf_backup.annotations import Tensor

# ---- Variables of one computation -------------------------------------------------------------


class LocalVariable(resource_variable_ops.BaseResourceVariable):
    """A variable that is created, used and deleted within one run of a graph, on its device.

    It works like any `tf.Variable`: gradient tapes watch it, and loops may assign to it. Relies on
    anonymous variables, which exist as long as their handle.

    Args:
      value: initial value, a tensor of static shape.
      trainable: whether gradient tapes watch it automatically.
      name: name for messages.
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
        self.changed = False  # Whether the graph may assign to it after its initial value.

    @property
    def handle(self) -> Tensor:
        """The handle, which every use of the variable reads."""
        if self._refusal is not None:
            raise self._refusal
        return self._handle

    def _read_variable_op(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._refusal is not None:
            raise self._refusal  # If C code below raised it, it would be a SystemError.
        return super()._read_variable_op(*args, **kwargs)

    def assign(self, *args: Any, **kwargs: Any) -> Any:
        """See `tf.Variable`."""
        self.changed = True
        return super().assign(*args, **kwargs)

    def assign_add(self, *args: Any, **kwargs: Any) -> Any:
        """See `tf.Variable`."""
        self.changed = True
        return super().assign_add(*args, **kwargs)

    def assign_sub(self, *args: Any, **kwargs: Any) -> Any:
        """See `tf.Variable`."""
        self.changed = True
        return super().assign_sub(*args, **kwargs)

    def _lazy_read(self, op: Any) -> Any:
        self.changed = True  # All scatter updates call this.
        return super()._lazy_read(op)

    def refuse(self, error: BaseException | None) -> None:
        """Make every later use raise `error`; None allows use again."""
        self._refusal = error


# ---- State on a parameter server --------------------------------------------------------------


def on_server(ps: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` in a graph, as one operation on parameter server `ps`.

    Only its arguments and the results that are used elsewhere then cross the network. Operations
    placed one by one, or a function that TensorFlow inlines, also send control signals: 34
    crossings per turn of the workers' loop became 6.
    """
    whole = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    with tf.device(ps_device(ps)), calls_as_written():
        return whole(*args)


@contextlib.contextmanager
def as_data_flows() -> Iterator[None]:
    """Make loops and branches that are created in this context wait only for what they use.

    TensorFlow makes each iteration of a loop wait for every stateful operation in it. For an
    operation on another machine this is a message, even if its results have already arrived. Relies
    on the flag by which loops and branches inherit this from their graph.
    """
    graph = tf.compat.v1.get_default_graph()  # No other thread traces into it.
    before = graph._add_control_dependencies
    graph._add_control_dependencies = False
    try:
        yield
    finally:
        graph._add_control_dependencies = before


@contextlib.contextmanager
def changing() -> Iterator[list[Any]]:
    """Yield a list that is filled, at exit, with the context's operations that may write state.

    The results of a function do not wait for these by themselves. Relies on TensorFlow's mark for
    stateful operations.
    """
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    made: list[Any] = []
    yield made
    for operation in graph.get_operations()[before:]:
        if operation._is_stateful and operation.type not in ("ReadVariableOp", "ResourceGather"):
            made.append(operation)


def is_eager(tensor: Tensor) -> bool:
    """Return whether a tensor has a value already. Relies on the class of such tensors."""
    return isinstance(tensor, tf.__internal__.EagerTensor)


def here(tensors: Any) -> Any:
    """Return a structure of tensors on the device of the calling function.

    A `tf.while_loop` keeps its variables on the device of their initial values.
    """
    return tf.nest.map_structure(tf.identity, tensors)


def stage(name: Name, key: Tensor, values: Sequence[Tensor]) -> Any:
    """Store `values` under the int64 `key` in the map `name` of the current device.

    A key that is already there keeps its values.
    """
    return tf.raw_ops.MapStage(
        key=key,
        indices=list(range(len(values))),
        values=list(values),
        dtypes=[value.dtype for value in values],
        **name.attributes(),
    )


def unstage(name: Name, key: Tensor, dtypes: Sequence[tf.DType]) -> list[Tensor]:
    """Take the values under `key` out of the map, blocking a thread until they are there."""
    return list(
        tf.raw_ops.MapUnstage(
            key=key, indices=list(range(len(dtypes))), dtypes=list(dtypes), **name.attributes()
        )
    )


def clear_stage(name: Name, dtypes: Sequence[tf.DType]) -> Any:
    """Empty the map `name` of the current device."""
    return tf.raw_ops.MapClear(dtypes=list(dtypes), **name.attributes())


def select(handles: Sequence[Tensor], index: Tensor) -> Tensor:
    """Return the resource handle `handles[index]`, for an index known only at run time."""
    return tf.gather(tf.stack(handles), index)


def take_until(queue: Tensor, wanted: Callable[[Tensor], Tensor]) -> Tensor:
    """Take pairs ([2] int64) from the queue behind a handle until one is wanted, and return it.

    This holds no thread while it waits.

    Args:
      queue: the handle of the queue.
      wanted: function that returns whether a pair is wanted ([] bool).
    """

    def take() -> Tensor:
        pair = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.int64])[0]
        pair.set_shape([2])
        return pair

    return tf.while_loop(lambda pair: ~wanted(pair), lambda pair: [take()], [take()])[0]


def put_many(queue: Tensor, elements: Tensor) -> Any:
    """Put stacked elements into the queue behind a handle, and return the operation."""
    return tf.raw_ops.QueueEnqueueManyV2(handle=queue, components=[elements])
