"""Private TensorFlow for strategies, clusters, scopes and calls.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
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

from tf_backup import quiet
from tf_backup._tf.private_tensorflow import (
    atomic_function,
    cancellation,
    config_pb2,
    context,
    resource_variable_ops,
    script_ops,
)
from tf_backup.annotations import Strategy

# ---- The strategy -----------------------------------------------------------------------------


def is_parameter_server_strategy(strategy: Strategy) -> bool:
    """Return whether `strategy` is TensorFlow 2's parameter-server strategy."""
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def worker_count(strategy: Strategy) -> int:
    """Return the number of worker tasks in the strategy's cluster."""
    return int(strategy._num_workers)


def ps_count(strategy: Strategy) -> int:
    """Return the number of parameter servers in the strategy's cluster."""
    return int(strategy._num_ps)


def has_variable_partitioner(strategy: Strategy) -> bool:
    """Return whether the strategy partitions variables, which Keras 3 cannot use."""
    return strategy.extended._variable_partitioner is not None


def ps_device(index: int) -> str:
    """Return the CPU device of parameter server `index`."""
    return f"/job:ps/replica:0/task:{index}/device:CPU:0"


def is_on_ps(device: str) -> bool:
    """Return whether a device is a parameter server's."""
    return bool(tf.DeviceSpec.from_string(device).job == "ps")


def ps_index(device: str) -> int:
    """Return the index of the parameter server that a variable's device is on.

    Raises:
      ValueError: if `device` is on no parameter server.
    """
    spec = tf.DeviceSpec.from_string(device)
    if spec.job != "ps" or spec.task is None:
        raise ValueError(f"device {device!r} is on no parameter server.")
    return int(spec.task)


@contextlib.contextmanager
def beside(variable: Any) -> Iterator[None]:
    """Place new variables under a parameter-server strategy on the device of `variable`.

    The strategy would distribute them in turn. Relies on it honoring `colocate_with`.
    """

    def creator(next_creator: Callable[..., Any], **kwargs: Any) -> Any:
        return next_creator(**{**kwargs, "colocate_with": variable})

    with tf.variable_creator_scope(creator):
        yield


def forget_cluster(address: str) -> None:
    """Release resources held on a cluster before it shuts down.

    Otherwise each variable and function that is collected later is looked up on a server that is
    gone, and TensorFlow logs long errors. If the process then joins another cluster, whose servers
    do not know a function that is removed, even the next call fails. So functions are kept forever.
    Relies on `EagerResourceDeleter`, on the reference counts of functions, and on the way in which
    the context leaves tasks out of the cluster.

    Args:
      address: address of this process in that cluster.
    """
    gc.collect()
    for name in atomic_function.RUNTIME_FUNCTION_REFS:
        atomic_function.RUNTIME_FUNCTION_REFS[name] += 1
    for thing in gc.get_objects():
        if isinstance(thing, resource_variable_ops.EagerResourceDeleter):
            handle = getattr(thing, "_handle", None)
            if handle is not None and tf.DeviceSpec.from_string(handle.device).job == "ps":
                del thing._handle  # Without a handle, the deleter does nothing.
    alone = copy.deepcopy(context.get_server_def())
    del alone.cluster.job[:]
    job = alone.cluster.job.add(name=alone.job_name)
    job.tasks[alone.task_index] = address
    with quiet.hold_stderr_back():
        context.context().update_server_def(alone)


def let_threads_sleep() -> None:
    """Make idle threads of this process sleep at once, rather than spin first.

    Only takes effect before TensorFlow's first use. Relies on where the context keeps its initial
    configuration.
    """
    config = config_pb2.ConfigProto()
    config.experimental.disable_thread_spinning = True
    context.context()._config = config


# ---- The end of a server ------------------------------------------------------------------------

_END = "tf_backup.end"
_kept: list[Callable[[], None]] = []  # Keeps functions that TensorFlow refers to weakly.


def at_dismissal(end: Callable[[], None]) -> None:
    """Register `end`, which this process's server calls when another process dismisses it.

    Relies on where the operation `PyFunc` looks up the function to call.
    """
    _kept.append(end)
    script_ops._py_funcs._funcs[_END] = end


def tell_to_end(job: str, index: int, address: str, timeout_s: float) -> bool:
    """Call the function that a task's server has registered, and return whether that succeeded.

    A new session reaches the server at `host:port` even if the server was restarted and does not
    know this process.
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
        with contextlib.suppress(tf.errors.OpError):  # The server may have shut down by now.
            session.close()
    return True


# ---- Scopes -------------------------------------------------------------------------------------


@contextlib.contextmanager
def outside_strategy() -> Iterator[None]:
    """Leave the scope of every strategy, in this thread and graph.

    In a scope, the strategy places variables, and Keras optimizers ask for its replicas. Relies on
    the two stacks that `Strategy.scope()` pushes to; each thread has its own.
    """
    graph = tf.compat.v1.get_default_graph()
    strategies, creators = graph._distribution_strategy_stack, graph._variable_creator_stack
    graph._distribution_strategy_stack, graph._variable_creator_stack = [], []
    try:
        yield
    finally:
        graph._distribution_strategy_stack = strategies
        graph._variable_creator_stack = creators


# ---- Calls --------------------------------------------------------------------------------------

_STREAMING = "TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"


@contextlib.contextmanager
def calls_as_written(one_thread: bool = False) -> Iterator[None]:
    """Run functions that are called in a graph as they are, unchanged by Grappler.

    The project's functions need no optimization. For each client, a server spent seconds on
    optimizing them, which was most of the startup time of a small training run.

    Relies on TensorFlow's function call options, of which each thread has its own.

    Args:
      one_thread: whether the functions' operations run one after the other, in one thread. Such
        functions may not contain branches or loops.
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


class _Streaming:
    """The environment variable that makes TensorFlow stream calls, set while any thread needs it.

    If each thread restored what it had found, one could unset what another still needs, or leave it
    set for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._found: str | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._found = os.environ.get(_STREAMING)
                os.environ[_STREAMING] = "True"
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads:
                return
            if self._found is None:
                del os.environ[_STREAMING]
            else:
                os.environ[_STREAMING] = self._found


_streaming = _Streaming()


@contextlib.contextmanager
def tracing(servers: int) -> Iterator[None]:
    """Trace functions and create variables without waiting for each server each time.

    A traced function is registered on every server. TensorFlow waits for that with Python's GIL
    held, forever if a server is frozen: no signal is handled, and no other thread runs. It does not
    wait if calls are streamed, but then a later call may overtake an earlier one. So calls are
    streamed in this context only, and its end waits for all of them, without the GIL.

    Relies on TensorFlow reading the environment variable repeatedly.

    Args:
      servers: number of parameter servers.
    """
    with _streaming:
        yield
        for index in range(servers):
            with tf.device(ps_device(index)):
                mark = tf.random.uniform([])  # Last in the stream.
            mark.numpy()


class Cancelable:
    """Function calls that another thread can cancel; they then raise `CancelledError`.

    Their pending operations on servers are cancelled, too. Relies on where TensorFlow looks up the
    cancellation manager of a call. It has one for all threads; here each thread has its own.
    """

    def __init__(self) -> None:
        self._manager = cancellation.CancellationManager()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a `tf.function`, or a Python function that calls some."""
        before = getattr(_thread, "manager", None)
        _thread.manager = self._manager
        try:
            return function(*args)
        finally:
            _thread.manager = before

    def cancel(self) -> None:
        """Cancel the calls that are under way, and every later one."""
        self._manager.start_cancel()


_thread = threading.local()
_of_all_threads = cancellation.context


def _manager_of_call() -> Any:
    return getattr(_thread, "manager", None) or _of_all_threads()


cancellation.context = _manager_of_call
