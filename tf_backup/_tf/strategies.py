"""Private TensorFlow for a parameter-server strategy that does not connect to workers.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from tf_backup._tf import grpc_environment, threads
from tf_backup._tf.private_tensorflow import context, ops, parameter_server_strategy_v2

_LARGE = 4096  # Bytes.
_runs_here = ContextVar("runs_here", default=False)


class Strategy(tf.distribute.ParameterServerStrategy):
    """TensorFlow's parameter-server strategy, connected to the parameter servers only.

    Scopes, variables and everything else are TensorFlow's. TensorFlow's own strategy also connects
    to every worker, and waits for missing ones.

    Relies on `_connect_to_cluster` being the only place that connects, and on `_extended` being
    created right after it.

    Args:
      resolver: cluster resolver, whose workers need not exist.
    """

    def __init__(self, resolver: Any) -> None:
        super().__init__(resolver)
        self._extended.__class__ = _Extended
        self._extended._bytes = [0] * self._num_ps
        self._extended._turn = itertools.cycle(range(self._num_ps))

    def _connect_to_cluster(self, coordinator_name: str) -> None:
        spec = self._cluster_resolver.cluster_spec().as_dict()
        self._num_workers, self._num_ps = len(spec["worker"]), len(spec["ps"])
        connect(spec, coordinator_name, 0, spec[coordinator_name][0])


class _Extended(parameter_server_strategy_v2.ParameterServerStrategyV2Extended):
    """Placement of each large variable on the server that holds the fewest bytes.

    TensorFlow places all variables in turn. With two servers, one then holds all matrices of a
    chain of layers, and the other all biases. Here only small variables are placed in turn. Scalars
    (the number of updates, a metric's total) are on the first server, where the gate is.

    Relies on `_resource_creator_scope`, on `_create_variable_round_robin`, which `_create_variable`
    calls for a variable that is not colocated with another one, and on the attribute that is read
    before a warning about `run` in this process.
    """

    _bytes: list[int]  # Bytes of the existing large variables on each server.
    _turn: Iterator[int]

    @property
    def _allow_run_without_coordinator(self) -> bool:
        return _runs_here.get()

    def _resource_creator_scope(self) -> None:
        """Skip the `ClusterCoordinator` for lookup tables, which models here do not have."""

    def _create_variable_round_robin(self, next_creator: Callable[..., Any], **kwargs: Any) -> Any:
        spec = _spec(kwargs.get("initial_value"), kwargs.get("dtype"))
        size = int(spec.shape.num_elements() or 1) * int(spec.dtype.size)
        if spec.shape.rank == 0:
            ps = 0
        elif size < _LARGE:
            ps = next(self._turn)
        else:
            ps = min(range(self._num_ps), key=self._bytes.__getitem__)
        nowhere = ops.colocate_with(None, ignore_existing=True)
        with nowhere, ops.device(f"/job:ps/task:{ps}/device:CPU:0"):
            variable = next_creator(**kwargs)
        if size >= _LARGE:
            self._bytes[ps] += size
            weakref.finalize(variable, self._forget, ps, size).atexit = False
        return variable

    def _forget(self, ps: int, size: int) -> None:
        """Subtract the bytes of a variable that has been deleted."""
        self._bytes[ps] -= size


def _spec(value: Any, dtype: Any) -> tf.TensorSpec:
    """Return the shape and dtype of a variable's initial value, or of the function's result.

    The value itself is created on the server, since sending a large table there would take long.
    """
    if not callable(value):
        return tf.TensorSpec.from_tensor(tf.convert_to_tensor(value, dtype))
    with tf.Graph().as_default():
        return tf.TensorSpec.from_tensor(tf.convert_to_tensor(value(), dtype))


@contextlib.contextmanager
def running_here() -> Iterator[None]:
    """Allow `Strategy.run` in this thread, about which TensorFlow warns otherwise."""
    token = _runs_here.set(True)
    try:
        yield
    finally:
        _runs_here.reset(token)


def connect(cluster: dict[str, list[str]], job: str, index: int, address: str) -> None:
    """Make this process a task that is a client of the parameter servers only.

    Args:
      cluster: addresses (`host:port`) of the tasks, by job.
      job: job of this process.
      index: index of this process in the job.
      address: this process's own `host:port`, at which the servers fetch tensors.

    Raises:
      ClusterError: if TensorFlow has been used, and runs one operation at a time.
    """
    grpc_environment.prepare()
    threads.allow_operations_at_once()
    spec = tf.train.ClusterSpec({"ps": cluster["ps"], job: {index: address}})
    tf.config.experimental_connect_to_cluster(spec, job_name=job, task_index=index)
    context.ensure_initialized()
