"""The door to private TensorFlow: a parameter-server strategy that knows no workers.

Each entry says what it relies on, so that a TensorFlow release that moves it breaks one line
here and no other file.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import parameter_server_strategy_v2
from tensorflow.python.eager import context
from tensorflow.python.framework import ops

_LARGE = 4096  # Bytes.


class Strategy(tf.distribute.ParameterServerStrategy):
    """TensorFlow's parameter-server strategy, whose process connects to the servers alone.

    Scopes, variables and all else are TensorFlow's. But TensorFlow's own strategy connects to every
    worker, and waits for those that are not there.

    Relies on `_connect_to_cluster` being the only place that does, and on `_extended` being made
    right after it.

    Args:
      resolver: the cluster, whose workers need not exist.
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
    """Deals large variables out by their size: each to the server that has the fewest bytes.

    TensorFlow deals all of them out in turn; then one of two servers has all matrices of a chain of
    layers, and the other all biases. Here small ones are, by themselves. Scalars (the number of
    updates, a metric's total) are on the first server, where the gate is.

    Relies on `_resource_creator_scope`, and on `_create_variable_round_robin`, which
    `_create_variable` calls for a variable that is to lie beside no other one.
    """

    _bytes: list[int]  # Of the large variables on each server that are still there.
    _turn: Iterator[int]

    def _resource_creator_scope(self) -> None:
        """Makes no `ClusterCoordinator`, for lookup tables: there are none in models here."""

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
        """Counts a variable no more that is gone."""
        self._bytes[ps] -= size


def _spec(value: Any, dtype: Any) -> tf.TensorSpec:
    """Returns the shape and dtype of a variable's first value, or of what a function returns.

    The value itself is made on the server: a large table would take long on its way there.
    """
    if not callable(value):
        return tf.TensorSpec.from_tensor(tf.convert_to_tensor(value, dtype))
    with tf.Graph().as_default():
        return tf.TensorSpec.from_tensor(tf.convert_to_tensor(value(), dtype))


def connect(cluster: dict[str, list[str]], job: str, index: int, address: str) -> None:
    """Makes this process a task that is a client of the parameter servers, and of nobody else.

    Every call is awaited: as a stream, a later one could overtake an earlier one.

    Args:
      cluster: the `host:port` of the tasks, by job.
      job: of this process.
      index: its index in that job.
      address: its own `host:port`, at which the servers fetch tensors.
    """
    os.environ["TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"] = "False"
    os.environ["TF_PS_DISABLE_ASYNC_EXECUTOR_GLOBALLY"] = "True"
    spec = tf.train.ClusterSpec({"ps": cluster["ps"], job: {index: address}})
    tf.config.experimental_connect_to_cluster(spec, job_name=job, task_index=index)
    context.ensure_initialized()
