"""The only door to raw operations and to private parts of TensorFlow.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute.coordinator import remote_value
from tensorflow.python.distribute.coordinator import values as coordinator_values
from tensorflow.python.eager import context
from tensorflow.python.ops import resource_variable_ops

from tf_backup import chatter

Tensor = Any  # a tf.Tensor
Strategy = Any  # a tf.distribute.ParameterServerStrategy


# ---- The strategy and its coordinator ---------------------------------------------------------


def is_parameter_server_strategy(strategy: Strategy) -> bool:
    """Returns whether `strategy` is TensorFlow 2's parameter-server strategy."""
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def worker_count(strategy: Strategy) -> int:
    """Returns how many worker tasks the strategy's cluster has."""
    return int(strategy._num_workers)


def has_variable_partitioner(strategy: Strategy) -> bool:
    """Returns whether the strategy splits variables (Keras 3 cannot use the pieces)."""
    return strategy.extended._variable_partitioner is not None


def cluster_addresses(strategy: Strategy, job: str) -> list[str]:
    """Returns `host:port` of each task of `job`."""
    return list(strategy._cluster_resolver.cluster_spec().as_dict().get(job, []))


def ps_device(index: int) -> str:
    """Returns the device that holds what parameter server `index` holds."""
    return f"/job:ps/replica:0/task:{index}/device:CPU:0"


def is_on_ps(device: str) -> bool:
    """Returns whether a device is a parameter server's."""
    return bool(tf.DeviceSpec.from_string(device).job == "ps")


def ps_index(device: str) -> int:
    """Returns which parameter server a variable's device is on.

    Raises:
      ValueError: if `device` is on no parameter server.
    """
    spec = tf.DeviceSpec.from_string(device)
    if spec.job != "ps" or spec.task is None:
        raise ValueError(f"device {device!r} is on no parameter server.")
    return int(spec.task)


@contextlib.contextmanager
def beside(variable: Any) -> Iterator[None]:
    """Lets variables that are made under a parameter-server strategy lie where `variable` does.

    The strategy would deal them out in turn. Relies on its regard for `colocate_with`.
    """

    def creator(next_creator: Callable[..., Any], **kwargs: Any) -> Any:
        return next_creator(**{**kwargs, "colocate_with": variable})

    with tf.variable_creator_scope(creator):
        yield


def coordinator_of(strategy: Strategy) -> Any:
    """Returns the strategy's `ClusterCoordinator`, made so that it can always be ended.

    While a worker is dead, the coordinator's failure handler holds its lock until that worker
    is back. Its own `stop`, which also runs when Python ends, would wait for that lock.
    """
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    handler = coordinator._cluster.failure_handler

    def stop() -> None:
        handler._should_preemption_thread_run = False
        handler._cluster_due_for_update_or_finish.set()

    handler.stop = stop
    return coordinator


def is_available(value: Any) -> bool:
    """Returns whether a `RemoteValue` has come, or failed."""
    return bool(value._status_available_event.is_set())


def living_workers(coordinator: Any) -> int:
    """Returns how many workers the coordinator has not seen die."""
    return sum(not worker._is_dead_with_error for worker in coordinator._cluster.workers)


def clear_errors(coordinator: Any) -> None:
    """Lets the coordinator forget an error that has been reported, so that it goes on."""
    with contextlib.suppress(tf.errors.OpError):
        coordinator.join()


def forget_cluster(strategy: Strategy) -> None:
    """Lets go of what lies on a cluster that is about to end.

    Otherwise every variable and function that is later collected is looked for on a server
    that is gone, and TensorFlow says so at length. Relies on `EagerResourceDeleter`, and on
    the context's way to leave tasks out of the cluster.
    """
    coordinator = coordinator_of(strategy)
    coordinator._cluster.stop()
    for thing in gc.get_objects():
        if isinstance(thing, resource_variable_ops.EagerResourceDeleter):
            handle = getattr(thing, "_handle", None)
            job = handle is not None and tf.DeviceSpec.from_string(handle.device).job
            if job in ("ps", "worker"):
                del thing._handle  # Then it deletes nothing, by its own rules.
    if any(worker._is_dead_with_error for worker in coordinator._cluster.workers):
        return  # The coordinator is changing the cluster, and waits there for the dead one.
    alone = copy.deepcopy(context.get_server_def())
    del alone.cluster.job[:]
    job = alone.cluster.job.add(name=alone.job_name)
    job.tasks[alone.task_index] = strategy._cluster_resolver.cluster_spec().task_address(
        alone.job_name, alone.task_index
    )
    with chatter.kept_back():
        context.context().update_server_def(alone)


class WorkerTask:
    """A function that runs on one given worker, and again if that worker dies and comes back.

    Relies on `Worker.create_resource`, the way TensorFlow itself binds data sets to workers
    (`ClusterCoordinator.schedule` cannot choose the worker), and on `RemoteValueImpl`'s event.
    """

    def __init__(
        self, strategy: Strategy, worker: int, function: Callable[..., Any], args: Sequence[Any]
    ) -> None:
        coordinator = coordinator_of(strategy)
        self.worker = worker
        self._owner = coordinator._cluster.workers[worker]
        self.value = self._owner.create_resource(function, args=tuple(args))

    @property
    def dead(self) -> bool:
        """Whether the coordinator has seen the worker die and not yet seen it come back."""
        return bool(self._owner._is_dead_with_error)

    @property
    def done(self) -> bool:
        """Whether the function has returned or raised."""
        return bool(self.value._status_available_event.is_set()) and not self.aborted

    @property
    def aborted(self) -> bool:
        """Whether the worker died while it ran; it runs again when the worker is back."""
        return self.value._status is remote_value.RemoteValueStatus.ABORTED

    @property
    def error(self) -> BaseException | None:
        """What the function raised, if it has ended by raising."""
        return self.value._error if self.done else None


def worker_values(tasks: Sequence[WorkerTask]) -> Any:
    """Returns the tasks' results as one argument of which each worker sees its own."""
    return coordinator_values.PerWorkerValues(tuple(task.value for task in tasks))


# ---- Variables of one computation -------------------------------------------------------------


class LocalVariable(resource_variable_ops.BaseResourceVariable):  # type: ignore[misc]
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
    with tf.device(ps_device(ps)):
        return whole(*args)


def here(tensors: Any) -> Any:
    """Returns tensors (a structure of them) on the device of the function that calls this.

    A `tf.while_loop` keeps its variables on the device that their first values come from.
    """
    return tf.nest.map_structure(tf.identity, tensors)


def stage(name: str, key: Tensor, values: Sequence[Tensor]) -> Any:
    """Keeps `values` under the int64 `key` in the map `name` of the current device.

    A key that is there already keeps its values.
    """
    return tf.raw_ops.MapStage(
        key=key,
        indices=list(range(len(values))),
        values=list(values),
        dtypes=[value.dtype for value in values],
        shared_name=name,
    )


def unstage(name: str, key: Tensor, dtypes: Sequence[tf.DType]) -> list[Tensor]:
    """Takes the values under `key` out of the map; blocks a thread until they are there."""
    return list(
        tf.raw_ops.MapUnstage(
            key=key, indices=list(range(len(dtypes))), dtypes=list(dtypes), shared_name=name
        )
    )


def clear_stage(name: str, dtypes: Sequence[tf.DType]) -> Any:
    """Empties the map `name` of the current device."""
    return tf.raw_ops.MapClear(dtypes=list(dtypes), shared_name=name)


def select_queue(queues: Sequence[Any], index: Tensor) -> Tensor:
    """Returns the handle of `queues[index]` for an index known only at run time."""
    return tf.gather(tf.stack([queue.queue_ref for queue in queues]), index)


def dequeue(handle: Tensor) -> Tensor:
    """Takes an int64 scalar from the queue behind `handle`; holds no thread while it waits."""
    value = tf.raw_ops.QueueDequeueV2(handle=handle, component_types=[tf.int64])[0]
    value.set_shape([])
    return value


def drain(handle: Tensor) -> Any:
    """Empties the queue (of int64 scalars) behind `handle`."""
    size = tf.raw_ops.QueueSizeV2(handle=handle)
    return tf.raw_ops.QueueDequeueManyV2(handle=handle, n=size, component_types=[tf.int64])[0].op


# ---- Data sets --------------------------------------------------------------------------------


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
    definition = tf.compat.v1.GraphDef.FromString(graph.numpy())
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes += function.node_def
    return any(node.op in ("PyFunc", "PyFuncStateless", "EagerPyFunc") for node in nodes)


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


def seeded(graph: Tensor, seed: int) -> Tensor:
    """Returns a data set in whose graph every shuffle without a seed has one.

    Relies on where `dataset_to_graph` writes seeds, and on 0, 0 standing for none.

    Args:
      graph: as `dataset_to_graph` has written it.
      seed: with the same one, shuffles are the same in every process.
    """
    definition = tf.compat.v1.GraphDef.FromString(graph.numpy())
    bodies = [(definition.node, "")]
    bodies += [(each.node_def, ":output:0") for each in definition.library.function]
    for nodes, port in bodies:
        consts = {node.name + port: node for node in nodes if node.op == "Const"}
        for node in [node for node in nodes if node.op in _SEEDS]:
            seeds = node.input[_SEEDS[node.op] : _SEEDS[node.op] + 2]
            if not all(name in consts and not _value(consts[name]) for name in seeds):
                continue
            seed += 1
            for place, name in enumerate(seeds):
                const = nodes.add()
                const.CopyFrom(consts[name])
                const.name = f"{node.name}_tf_backup_seed_{place}"
                const.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(seed, tf.int64, []))
                node.input[_SEEDS[node.op] + place] = const.name + port
    return tf.constant(definition.SerializeToString())


def _value(const: Any) -> Any:
    """Returns the value of a Const node."""
    return tf.make_ndarray(const.attr["value"].tensor)


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


@contextlib.contextmanager
def outside_strategy() -> Iterator[None]:
    """Leaves the scope of every strategy, as far as this thread and graph are concerned.

    In a scope, variables go where the strategy wants, and Keras' optimizers ask for its replicas.
    Relies on the two stacks that `Strategy.scope()` pushes to.
    """
    graph = tf.compat.v1.get_default_graph()
    strategies, creators = graph._distribution_strategy_stack, graph._variable_creator_stack
    graph._distribution_strategy_stack, graph._variable_creator_stack = [], []
    try:
        yield
    finally:
        graph._distribution_strategy_stack = strategies
        graph._variable_creator_stack = creators
