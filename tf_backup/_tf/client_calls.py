"""Graphs that a client runs on parameter servers by calling them from Python.

Each entry names the internals that it relies on. If a TensorFlow release moves them, one line here
breaks, and no other file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import tensorflow as tf

_Method = TypeVar("_Method", bound=Callable[..., Any])


def function(python: Callable[..., Any]) -> Any:
    """Return a `tf.function` that does not warn about frequent retracing.

    Each engine creates its own, and TensorFlow mistakes these for one that is traced again and
    again. Relies on the attribute by which Keras disables the warning.
    """
    made = tf.function(python, autograph=False)
    made._omit_frequent_tracing_warning = True
    return made


def called_eagerly(method: _Method) -> _Method:
    """Decorate a method that adds operations to a graph, so that a call runs them.

    Each object has a graph of its own, which the method's first call traces. It brings the results
    to this process; see `brought`.
    """

    def made(self: Any) -> Any:
        return function(lambda *args: brought(method(self, *args)))

    return cast("_Method", functools.cached_property(made))


def brought(results: Any) -> Any:
    """Return a structure of tensors, or None, on the device of this process, in a graph.

    A server sends a tensor that Python asks for (`numpy`, `int`, `bool`) by an operation of its
    own, and keeps this operation of 1 KiB for ever. That was 20 MiB in 10,000 updates, and 1 KiB
    for each heartbeat of each worker. What a graph sends leaves nothing behind.
    """
    with tf.device(_own_device()):
        return None if results is None else tf.nest.map_structure(tf.identity, results)


def _own_device() -> str:
    """Return the CPU device of this process."""
    with tf.init_scope(), tf.device("CPU:0"):
        return str(tf.constant(0).device)
