"""The door to private TensorFlow: strategies, clusters, coordinators.

With `_tf_graph` and `_tf_data` it is the only user of raw operations and private parts.

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
from tensorflow.python.ops import resource_variable_ops, script_ops

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


def is_known(device: str) -> bool:
    """Returns whether a device still belongs to this process' cluster.

    A task that was restarted under its old address knows nothing of the context that it was in.
    """
    try:
        with tf.device(device):
            tf.identity(tf.constant(0)).numpy()
    except tf.errors.OpError:
        return False
    return True


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


# ---- The end of a server ------------------------------------------------------------------------

_END = "tf_backup.end"
_kept: list[Callable[[], None]] = []  # What TensorFlow refers to weakly.


def at_dismissal(end: Callable[[], None]) -> None:
    """Has this process' server call `end` when `dismiss` is called for it elsewhere.

    Relies on where the operation `PyFunc` looks for the function that it is to call.
    """
    _kept.append(end)
    script_ops._py_funcs._funcs[_END] = end


def dismiss(job: str, index: int, address: str, timeout_s: float) -> bool:
    """Has the server of a task call what it registered; returns whether it has.

    A session of its own reaches the server at `host:port` also where it was started anew, and
    knows nothing of this process.
    """
    task = f"/job:{job}/task:{index}"
    with tf.Graph().as_default() as graph, tf.device(f"{task}/device:CPU:0"):
        end = tf.raw_ops.PyFunc(input=[], token=_END, Tout=[])
    config = tf.compat.v1.ConfigProto(
        device_filters=[task], operation_timeout_in_ms=round(timeout_s * 1000)
    )
    session = tf.compat.v1.Session(f"grpc://{address}", graph, config)
    try:
        session.run(end)
    except tf.errors.OpError:
        return False
    finally:
        with contextlib.suppress(tf.errors.OpError):  # The server may have ended by now.
            session.close()
    return True


# ---- Tasks of a coordinator ---------------------------------------------------------------------


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


@contextlib.contextmanager
def running_here(strategy: Strategy) -> Iterator[None]:
    """Lets the strategy's `run` run in this process on purpose: TensorFlow warns of it otherwise.

    Relies on what the strategy looks at before it warns.
    """
    extended = strategy.extended
    before = extended._allow_run_without_coordinator
    extended._allow_run_without_coordinator = True
    try:
        yield
    finally:
        extended._allow_run_without_coordinator = before
