"""Queue of the reports on updates, from the chief's loop to the coordinator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_backup._tf import client_calls
from tf_backup._tf.named import Name, NamedQueue
from tf_backup.annotations import Tensor
from tf_backup.servers.event import ROWS, Event
from tf_backup.servers.tokens import DEVICE, GATE_SERVER

# More than the number of updates ever permitted ahead, so the loop never waits for room.
CAPACITY = 256


class Report(NamedTuple):
    """Report on one update; with a step below 0, the report that the loop has ended."""

    step: int  # t, before the update
    places: np.ndarray[Any, Any]  # [n] places whose gradients it uses; n is N, or fewer
    staleness: np.ndarray[Any, Any]  # [n] staleness of each gradient
    results: Any  # the objective's results, in NumPy


class Reports:
    """A queue of reports on the gate's server.

    A report is two vectors, for any structure of results: one of int64, which includes the event
    of the update, and one of float64.

    Args:
      results: the objective's results as a traced function returns them.
      replicas: N.
      name: name of the queue on the server.

    Raises:
      TypeError: if a result is not a number, or its shape is not static.
    """

    def __init__(self, results: Any, replicas: int, name: Name) -> None:
        self._results = results
        self._replicas = replicas
        for value in tf.nest.flatten(results):
            _check(value)
        sizes = {True: ROWS * replicas, False: 0}
        for value in tf.nest.flatten(results):
            sizes[_is_whole(value)] += math.prod(value.shape)
        self._queue = NamedQueue(
            GATE_SERVER,
            name,
            [tf.int64, tf.float64],
            [[sizes[True]], [sizes[False]]],
            CAPACITY,
        )
        self._sizes = sizes

    def put(self, event: Tensor, results: Any) -> Any:
        """Report an update, in a graph on the gate's server, and return the operation.

        Args:
          event: the event of the update's step.
          results: the objective's results, in the structure given at construction.
        """
        flat = tf.nest.flatten(results)
        whole = [tf.cast(tf.reshape(value, [-1]), tf.int64) for value in flat if _is_whole(value)]
        rest = [
            tf.cast(tf.reshape(value, [-1]), tf.float64) for value in flat if not _is_whole(value)
        ]
        return self._queue.put(
            tf.concat([tf.reshape(event, [-1]), *whole], axis=0),
            tf.concat([tf.zeros([0], tf.float64), *rest], axis=0),
        )

    def put_end(self, event: Tensor) -> Any:
        """Report that the loop has ended, with the event that ended it."""
        return self._queue.put(
            tf.concat(
                [
                    tf.reshape(event, [-1]),
                    tf.zeros([self._sizes[True] - ROWS * self._replicas], tf.int64),
                ],
                axis=0,
            ),
            tf.zeros([self._sizes[False]], tf.float64),
        )

    def read(self) -> list[Report]:
        """Wait for a report, and return all that are there; called eagerly."""
        whole, rest = self._take()
        return [self._report(*pair) for pair in zip(whole.numpy(), rest.numpy(), strict=True)]

    @client_calls.called_eagerly
    def _take(self) -> tuple[Tensor, Tensor]:
        with tf.device(DEVICE):
            first = self._queue.take()
            with tf.control_dependencies(first):
                more = self._queue.take_many(self._queue.size())
            whole, rest = (
                tf.concat([one[None], others], axis=0)
                for one, others in zip(first, more, strict=True)
            )
            return whole, rest

    def _report(self, whole: np.ndarray[Any, Any], rest: np.ndarray[Any, Any]) -> Report:
        head = ROWS * self._replicas
        event = Event(*whole[:head].reshape([ROWS, self._replicas]))
        left = {True: whole[head:], False: rest}
        values = []
        for spec in tf.nest.flatten(self._results):
            kind, size = _is_whole(spec), math.prod(spec.shape)
            part, left[kind] = left[kind][:size], left[kind][size:]
            dtype = tf.as_dtype(spec.dtype).as_numpy_dtype
            values.append(part.astype(dtype).reshape(tuple(spec.shape))[()])
        results = tf.nest.pack_sequence_as(self._results, values)
        there = event.tickets >= 0
        return Report(int(event.step[0]), event.places[there], event.staleness[there], results)


def _is_whole(value: Any) -> bool:
    dtype = tf.as_dtype(value.dtype)
    return bool(dtype.is_integer or dtype.is_bool)


def _check(value: Any) -> None:
    dtype = tf.as_dtype(value.dtype)
    if not (_is_whole(value) or dtype.is_floating):
        raise TypeError(
            f"a metric's result is of dtype {dtype.name}; it must be a number: what the workers "
            "compute of it is added up."
        )
    if not tf.TensorShape(value.shape).is_fully_defined():
        raise TypeError(
            f"a metric's result has the shape {value.shape}, not known before it is computed; its "
            "`result` must return a tensor of static shape."
        )


def structure_of(function: Any, reports: Sequence[Any]) -> Any:
    """Return the structure of the results of a function of tensors, without running it."""
    traced = tf.function(function, autograph=False).get_concrete_function(list(reports))
    return traced.structured_outputs
