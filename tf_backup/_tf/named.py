"""Private TensorFlow for resources on a parameter server that every client finds by name.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf import client_calls
from tf_backup._tf.private_tensorflow import handle_data_util, resource_variable_ops
from tf_backup._tf.runtime import calls_as_written, ps_device
from tf_backup.annotations import Tensor


class Name(NamedTuple):
    """Name of a resource on a server, which refers to the same resource in every client."""

    container: str  # Any client can clear all resources of a container together.
    name: str

    def __truediv__(self, part: str) -> Name:
        """Return a name below this one."""
        return Name(self.container, f"{self.name}/{part}")

    def attributes(self) -> dict[str, str]:
        """Return the name as attributes of an operation."""
        return {"container": self.container, "shared_name": self.name}


class Named:
    """A resource on a parameter server with a name, by which any client gets its handle.

    Variables and queues that TensorFlow makes eagerly have no name. One process owns a resource,
    which is deleted from the server when the owner's object is collected.

    Args:
      ps: index of the parameter server.
      op: name of the raw operation that returns the handle.
      attributes: attributes of the operation, including those of a `Name`.
      owner: whether to delete the resource with this object.
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
        """Return the JSON-serializable spec for `open_handle`."""
        return {"ps": self.ps, "op": self._op, "attributes": _to_json(self._attributes)}


def open_handle(spec: dict[str, Any]) -> Tensor:
    """Return the handle of a resource from its `spec`, eagerly or in a graph."""
    with tf.device(ps_device(spec["ps"])):
        return _make(spec["op"], _from_json(spec["attributes"]))


class NamedVariable(resource_variable_ops.BaseResourceVariable):
    """A variable that every client finds by its name, and that works like any `tf.Variable`.

    Relies on the constructor of TensorFlow's own variables.

    Args:
      ps: index of the parameter server.
      name: the container and the name that all clients share.
      dtype: dtype of the elements.
      shape: static shape.
      owner: whether to delete the variable with this object.
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
        """Return the JSON-serializable spec for `open_handle`."""
        return self.named.spec()

    def fetch(self) -> Any:
        """Return the value in NumPy; called eagerly."""
        return self._fetch().numpy()

    def has_value(self) -> bool:
        """Return whether the variable has a value; called eagerly."""
        return bool(self._exists())

    @client_calls.called_eagerly
    def _fetch(self) -> Tensor:
        return self.read_value()

    @client_calls.called_eagerly
    def _exists(self) -> Tensor:
        return self.exists()

    def exists(self) -> Tensor:
        """Return whether the variable has a value ([] bool)."""
        with tf.device(ps_device(self.named.ps)):
            return tf.raw_ops.VarIsInitializedOp(resource=self.handle)


class NamedQueue(Named):
    """A first-in, first-out queue that every client finds by its name.

    Args:
      ps: index of the parameter server.
      name: the container and the name that all clients share.
      dtypes: dtypes of the components of an element.
      shapes: static shapes of the components; None if they differ between elements.
      capacity: number of elements that fit before an enqueue waits.
      owner: whether to delete the queue with this object.
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
        """Return the number of elements in the queue ([] int32)."""
        return tf.raw_ops.QueueSizeV2(handle=self.handle)

    def put(self, *components: Tensor) -> Any:
        """Put an element in, waiting while the queue is full; return the operation."""
        return tf.raw_ops.QueueEnqueueV2(handle=self.handle, components=list(components))

    def put_many(self, *components: Tensor) -> Any:
        """Put elements in, stacked along the components' first dimension; return the operation."""
        return tf.raw_ops.QueueEnqueueManyV2(handle=self.handle, components=list(components))

    def take(self) -> list[Tensor]:
        """Take an element out; holds no thread while it waits for one."""
        return take(self.handle, self._dtypes, self._shapes or None)

    def close(self) -> Any:
        """Close the queue: it accepts no more, and a take when empty gets `OutOfRangeError`."""
        return tf.raw_ops.QueueCloseV2(handle=self.handle, cancel_pending_enqueues=True)

    def take_many(self, count: Tensor) -> list[Tensor]:
        """Take `count` ([] int32) elements out, and return their components, stacked."""
        taken = tf.raw_ops.QueueDequeueManyV2(
            handle=self.handle, n=count, component_types=self._dtypes
        )
        for component, shape in zip(taken, self._shapes, strict=True):
            component.set_shape([None, *shape])
        return list(taken)

    def drain(self) -> Any:
        """Empty the queue, and return the operation."""
        return self.take_many(self.size())[0].op


def take(
    queue: Tensor, dtypes: Sequence[tf.DType], shapes: Sequence[Sequence[int]] | None
) -> list[Tensor]:
    """Take an element out of the queue behind a handle; `shapes` is None if they are unknown."""
    taken = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=list(dtypes))
    if shapes is not None:
        for component, shape in zip(taken, shapes, strict=True):
            component.set_shape(shape)
    return list(taken)


class NamedLock(Named):
    """A lock that every client finds by its name.

    Args:
      ps: index of the parameter server.
      name: the container and the name that all clients share.
      owner: whether to delete the lock with this object.
    """

    def __init__(self, ps: int, name: Name, owner: bool = True) -> None:
        super().__init__(ps, "MutexV2", name.attributes(), owner)

    def holding(self, body: Callable[[], Any], branches: bool = False) -> Any:
        """Call `body()` in a graph while holding the lock, and return its results.

        Nothing in the body may wait. A body with `branches` (tf.cond) is slower.

        Relies on the lock being released with the tensor that stands for it. The body is one
        function, so that its assignments cannot move out of the lock.
        """
        held = tf.raw_ops.MutexLock(mutex=self.handle)
        with tf.control_dependencies([held]):
            results = (tf.function(body, autograph=False) if branches else in_one_thread(body))()
        with tf.control_dependencies(tf.nest.flatten(results)):
            released = tf.raw_ops.ConsumeMutexLock(mutex_lock=held)
        with tf.control_dependencies([released]):
            return tf.nest.map_structure(tf.identity, results)


def read_strings(spec: dict[str, Any]) -> list[bytes]:
    """Return the strings in the variable with the given `spec`."""
    handle = open_handle(spec)
    return list(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.string).numpy().tolist())


def in_one_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for graphs that is one operation and runs in one thread.

    Two hundred operations on a few numbers cost several times as much in a thread pool. The
    function may not contain branches or loops. Relies on TensorFlow's function call options.
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
        # TensorFlow does not set the shape and dtype behind an eager handle by itself.
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
    """A resource without a name, whose handle every client gets from a named box on its server.

    The box is a map with one element. It refers to the resource as long as it is filled.

    Args:
      resource: the handle in this process.
      ps: index of the resource's parameter server.
      name: the container and the name of the box, which all clients share.
    """

    def __init__(self, resource: Tensor, ps: int, name: Name) -> None:
        self.handle = resource
        self._ps, self._name = ps, name

    def fill(self) -> None:
        """Put the handle into the box, if the box is empty."""
        with tf.device(ps_device(self._ps)):
            tf.raw_ops.MapStage(
                key=tf.constant(0, tf.int64),
                indices=[0],
                values=[self.handle],
                dtypes=[tf.resource],
                **self._name.attributes(),
            )

    def empty(self) -> None:
        """Take the handle out of the box."""
        with tf.device(ps_device(self._ps)):
            tf.raw_ops.MapClear(dtypes=[tf.resource], **self._name.attributes())

    def spec(self) -> dict[str, Any]:
        """Return the JSON-serializable spec for `open_handle`."""
        return {"ps": self._ps, "op": "MapPeek", "attributes": self._name.attributes()}
