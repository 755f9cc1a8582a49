"""The door to private TensorFlow: strategies and clusters.

With `graphs`, `named`, `datasets` and `strategies` it is the only user of private TensorFlow.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.eager import cancellation, context
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.ops import resource_variable_ops, script_ops

from tf_backup import quiet

Tensor = Any  # a tf.Tensor
Strategy = Any  # a tf.distribute.ParameterServerStrategy


# ---- The strategy -----------------------------------------------------------------------------


def is_parameter_server_strategy(strategy: Strategy) -> bool:
    """Returns whether `strategy` is TensorFlow 2's parameter-server strategy."""
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def worker_count(strategy: Strategy) -> int:
    """Returns how many worker tasks the strategy's cluster has."""
    return int(strategy._num_workers)


def ps_count(strategy: Strategy) -> int:
    """Returns how many parameter servers the strategy's cluster has."""
    return int(strategy._num_ps)


def has_variable_partitioner(strategy: Strategy) -> bool:
    """Returns whether the strategy splits variables (Keras 3 cannot use the pieces)."""
    return strategy.extended._variable_partitioner is not None


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


def forget_cluster(address: str) -> None:
    """Lets go of what lies on a cluster that is about to end.

    Otherwise every variable and function that is later collected is looked for on a server
    that is gone, and TensorFlow says so at length; a function's removal, of which the servers of
    this process' next cluster know nothing, even fails the call after it. So such functions stay.
    Relies on `EagerResourceDeleter`, on the counts of functions' references, and on the context's
    way to leave tasks out of the cluster.

    Args:
      address: of this process, in that cluster.
    """
    gc.collect()
    for name in atomic_function.RUNTIME_FUNCTION_REFS:
        atomic_function.RUNTIME_FUNCTION_REFS[name] += 1
    for thing in gc.get_objects():
        if isinstance(thing, resource_variable_ops.EagerResourceDeleter):
            handle = getattr(thing, "_handle", None)
            if handle is not None and tf.DeviceSpec.from_string(handle.device).job == "ps":
                del thing._handle  # Then it deletes nothing, by its own rules.
    alone = copy.deepcopy(context.get_server_def())
    del alone.cluster.job[:]
    job = alone.cluster.job.add(name=alone.job_name)
    job.tasks[alone.task_index] = address
    with quiet.hold_stderr_back():
        context.context().update_server_def(alone)


def let_threads_sleep() -> None:
    """Has threads of this process that have nothing to do sleep at once, rather than spin first.

    Before TensorFlow's first use only. Relies on where the context keeps what it begins with.
    """
    config = config_pb2.ConfigProto()
    config.experimental.disable_thread_spinning = True
    context.context()._config = config


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


# ---- Scopes -------------------------------------------------------------------------------------


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


# ---- Calls --------------------------------------------------------------------------------------

_STREAMING = "TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"


@contextlib.contextmanager
def calls_as_written(one_thread: bool = False) -> Iterator[None]:
    """Lets functions that are called in a graph run as they are, unchanged by Grappler.

    What the project writes is written well. For each client, a server spent seconds on improving
    its functions, most of the time that a small training takes to begin.

    Relies on TensorFlow's options for calls of functions.

    Args:
      one_thread: whether their operations run one after the other, in one thread; they may have no
        branches and loops.
    """
    options = context.context().function_call_options
    before = options.executor_type, _config(options)
    config = _config(options)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    options.config_proto_serialized = config
    if one_thread:
        options.executor_type = "SINGLE_THREADED_EXECUTOR"
    try:
        yield
    finally:
        options.executor_type, options.config_proto_serialized = before


def _config(options: Any) -> Any:
    return config_pb2.ConfigProto.FromString(options.config_proto_serialized)


@contextlib.contextmanager
def tracing(servers: int) -> Iterator[None]:
    """Lets functions be traced, and variables made, without waiting for each server each time.

    A function that is traced is registered on every server. TensorFlow waits for that with Python's
    lock held, for ever if a server is frozen: no signal is seen, no other thread runs. It does not
    wait if calls travel as a stream; but then a later call may overtake an earlier one. So here
    they do, and at the end this waits for all of them, without the lock.

    Relies on the environment variable's being read again and again.

    Args:
      servers: how many parameter servers there are.
    """
    before = os.environ.get(_STREAMING)
    os.environ[_STREAMING] = "True"
    try:
        yield
        for index in range(servers):
            with tf.device(ps_device(index)):
                mark = tf.random.uniform([])  # In the stream, behind all else.
            mark.numpy()
    finally:
        if before is None:
            del os.environ[_STREAMING]
        else:
            os.environ[_STREAMING] = before


class Cancelable:
    """Calls of functions that can be ended from another thread, as `CancelledError`.

    What they wait for on servers is undone, too. Relies on where TensorFlow looks for the
    cancellation manager of a call: it has one for all threads, here each has its own.
    """

    def __init__(self) -> None:
        self._manager = cancellation.CancellationManager()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a `tf.function`, or anything that calls some."""
        before = getattr(_thread, "manager", None)
        _thread.manager = self._manager
        try:
            return function(*args)
        finally:
            _thread.manager = before

    def cancel(self) -> None:
        """Ends the calls that are under way, and every later one."""
        self._manager.start_cancel()


_thread = threading.local()
_of_all_threads = cancellation.context


def _manager_of_call() -> Any:
    return getattr(_thread, "manager", None) or _of_all_threads()


cancellation.context = _manager_of_call
