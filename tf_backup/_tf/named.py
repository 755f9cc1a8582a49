"""The door to private TensorFlow: resources on a parameter server that every client finds by name.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops import handle_data_util, resource_variable_ops

from tf_backup._tf.runtime import calls_as_written, ps_device

Tensor = Any  # a tf.Tensor


class Name(NamedTuple):
    """The name of a resource on a server: every client that says it means the same resource."""

    container: str  # Resources of a container can be cleared together, by anybody.
    name: str

    def __truediv__(self, part: str) -> Name:
        """Returns a name below this one."""
        return Name(self.container, f"{self.name}/{part}")

    def attributes(self) -> dict[str, str]:
        """Returns the name as operations want it."""
        return {"container": self.container, "shared_name": self.name}


class Named:
    """A resource on a parameter server, and how any client gets its handle.

    Variables and queues that TensorFlow makes eagerly have no name. One process owns a resource:
    it is deleted from the server when the owner's object is collected.

    Args:
      ps: the parameter server.
      op: the raw operation that returns the handle.
      attributes: of the operation; among them what a `Name` says.
      owner: whether the resource goes when this object does.
    """

    def __init__(self, ps: int, op: str, attributes: dict[str, Any], owner: bool = True) -> None:
        self.ps = ps
        self._op, self._attributes = op, attributes
        with tf.init_scope(), tf.device(ps_device(ps)):
            self.handle = _make(op, attributes)
            if owner:
                self._deleter = resource_variable_ops.EagerResourceDeleter(
                    self.handle, self.handle.device
                )

    def spec(self) -> dict[str, Any]:
        """Returns what `open_handle` needs, as JSON can hold it."""
        return {"ps": self.ps, "op": self._op, "attributes": _to_json(self._attributes)}


def open_handle(spec: dict[str, Any]) -> Tensor:
    """Returns the handle of a resource, eagerly or in a graph, from its `spec`."""
    with tf.device(ps_device(spec["ps"])):
        return _make(spec["op"], _from_json(spec["attributes"]))


class NamedVariable(resource_variable_ops.BaseResourceVariable):
    """A variable that every client finds by its name; to what uses it, it is any `tf.Variable`.

    Relies on the constructor of TensorFlow's own variables.

    Args:
      ps: the parameter server.
      name: the container and the name that all clients share.
      dtype: of its elements.
      shape: static.
      owner: whether it goes when this object does.
    """

    def __init__(
        self, ps: int, name: Name, dtype: tf.DType, shape: Sequence[int], owner: bool = True
    ) -> None:
        attributes = {"dtype": dtype, "shape": list(shape), **name.attributes()}
        self.named = Named(ps, "VarHandleOp", attributes, owner)
        with tf.init_scope():
            super().__init__(
                trainable=False,
                shape=tf.TensorShape(shape),
                dtype=dtype,
                handle=self.named.handle,
                name=name.name,
                handle_name=name.name,
                unique_id=name.name,
                in_graph_mode=False,
            )

    def spec(self) -> dict[str, Any]:
        """Returns what `open_handle` needs, as JSON can hold it."""
        return self.named.spec()

    def exists(self) -> Tensor:
        """Returns whether somebody has given it a value ([] bool)."""
        with tf.device(ps_device(self.named.ps)):
            return tf.raw_ops.VarIsInitializedOp(resource=self.handle)


class NamedQueue(Named):
    """A first-in, first-out queue that every client finds by its name.

    Args:
      ps: the parameter server.
      name: the container and the name that all clients share.
      dtypes: of the components of an element.
      shapes: of the components, static; None if they differ from element to element.
      capacity: how many elements it holds before an enqueue waits.
      owner: whether it goes when this object does.
    """

    def __init__(
        self,
        ps: int,
        name: Name,
        dtypes: Sequence[tf.DType],
        shapes: Sequence[Sequence[int]] | None,
        capacity: int,
        owner: bool = True,
    ) -> None:
        self._dtypes = list(dtypes)
        self._shapes = [list(shape) for shape in shapes or []]
        attributes = {
            "component_types": list(dtypes),
            "shapes": self._shapes,
            "capacity": capacity,
            **name.attributes(),
        }
        super().__init__(ps, "FIFOQueueV2", attributes, owner)

    def size(self) -> Tensor:
        """Returns the number of elements in it ([] int32)."""
        return tf.raw_ops.QueueSizeV2(handle=self.handle)

    def put(self, *components: Tensor) -> Any:
        """Puts an element in; returns the operation. Waits while the queue is full."""
        return tf.raw_ops.QueueEnqueueV2(handle=self.handle, components=list(components))

    def put_many(self, *components: Tensor) -> Any:
        """Puts elements in, of which the components' first dimension is the number."""
        return tf.raw_ops.QueueEnqueueManyV2(handle=self.handle, components=list(components))

    def take(self) -> list[Tensor]:
        """Takes an element out; holds no thread while it waits for one."""
        return take(self.handle, self._dtypes, self._shapes or None)

    def close(self) -> Any:
        """Lets nothing more in; who takes, from an empty queue, then gets `OutOfRangeError`."""
        return tf.raw_ops.QueueCloseV2(handle=self.handle, cancel_pending_enqueues=True)

    def take_many(self, count: Tensor) -> list[Tensor]:
        """Takes `count` ([] int32) elements out: the components of all, stacked."""
        taken = tf.raw_ops.QueueDequeueManyV2(
            handle=self.handle, n=count, component_types=self._dtypes
        )
        for component, shape in zip(taken, self._shapes, strict=True):
            component.set_shape([None, *shape])
        return list(taken)

    def drain(self) -> Any:
        """Empties it; returns the operation."""
        return self.take_many(self.size())[0].op


def take(
    queue: Tensor, dtypes: Sequence[tf.DType], shapes: Sequence[Sequence[int]] | None
) -> list[Tensor]:
    """Takes an element out of the queue behind a handle, of shapes that may not be known."""
    taken = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=list(dtypes))
    if shapes is not None:
        for component, shape in zip(taken, shapes, strict=True):
            component.set_shape(shape)
    return list(taken)


class NamedLock(Named):
    """A lock that every client finds by its name.

    Args:
      ps: the parameter server.
      name: the container and the name that all clients share.
      owner: whether it goes when this object does.
    """

    def __init__(self, ps: int, name: Name, owner: bool = True) -> None:
        super().__init__(ps, "MutexV2", name.attributes(), owner)

    def holding(self, body: Callable[[], Any], branches: bool = False) -> Any:
        """Returns what `body()` returns, called in a graph when nobody else holds the lock.

        Nothing in the body may wait. If it has `branches` (tf.cond), it is slower.

        Relies on a lock's ending with the tensor that stands for it. The body is one function:
        what it assigns may not move out of the lock.
        """
        held = tf.raw_ops.MutexLock(mutex=self.handle)
        with tf.control_dependencies([held]):
            results = (tf.function(body, autograph=False) if branches else in_one_thread(body))()
        with tf.control_dependencies(tf.nest.flatten(results)):
            released = tf.raw_ops.ConsumeMutexLock(mutex_lock=held)
        with tf.control_dependencies([released]):
            return tf.nest.map_structure(tf.identity, results)


def read_strings(spec: dict[str, Any]) -> list[bytes]:
    """Returns the strings in a variable, from its `spec`."""
    handle = open_handle(spec)
    return list(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.string).numpy().tolist())


def in_one_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function for graphs: one operation, whose own operations run in one thread.

    Two hundred operations on a few numbers cost several times as much when a pool of threads deals
    them out. There can be no branches and loops in it. Relies on TensorFlow's options for calls of
    functions.
    """
    whole = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})

    def call(*args: Any) -> Any:
        with calls_as_written(one_thread=True):
            return whole(*args)

    return call


def _make(op: str, attributes: dict[str, Any]) -> Tensor:
    if op == "MapPeek":
        key = tf.constant(0, tf.int64)
        return tf.raw_ops.MapPeek(key=key, indices=[0], dtypes=[tf.resource], **attributes)[0]
    handle = getattr(tf.raw_ops, op)(**attributes)
    if op == "VarHandleOp" and isinstance(handle, tf.__internal__.EagerTensor):
        # Of an eager handle TensorFlow does not note by itself what lies behind it.
        shape = tf.TensorShape(attributes["shape"])
        handle._handle_data = handle_data_util.create_handle_data(shape, attributes["dtype"])
    return handle


def _to_json(value: Any) -> Any:
    if isinstance(value, tf.DType):
        return {"dtype": value.name}
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    if isinstance(value, dict):
        return {name: _to_json(each) for name, each in value.items()}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"dtype"} and isinstance(value["dtype"], str):
            return tf.as_dtype(value["dtype"])
        return {name: _from_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    return value


class Boxed:
    """A resource without a name, of which every client gets the handle out of a box on its server.

    The box is a map with one element. It refers to the resource as long as it is filled.

    Args:
      resource: the handle, of this process.
      ps: the parameter server that it lies on.
      name: the container and the name that all clients share.
    """

    def __init__(self, resource: Tensor, ps: int, name: Name) -> None:
        self.handle = resource
        self._ps, self._name = ps, name

    def fill(self) -> None:
        """Puts the handle in, if the box is empty."""
        with tf.device(ps_device(self._ps)):
            tf.raw_ops.MapStage(
                key=tf.constant(0, tf.int64),
                indices=[0],
                values=[self.handle],
                dtypes=[tf.resource],
                **self._name.attributes(),
            )

    def empty(self) -> None:
        """Takes the handle out."""
        with tf.device(ps_device(self._ps)):
            tf.raw_ops.MapClear(dtypes=[tf.resource], **self._name.attributes())

    def spec(self) -> dict[str, Any]:
        """Returns what `open_handle` needs, as JSON can hold it."""
        return {"ps": self._ps, "op": "MapPeek", "attributes": self._name.attributes()}
