"""Plain `tf.distribute.Server`, as a worker or parameter server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from scripts.benchmarks.spec import Spec


class _Server:
    """A server, which does not measure."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.children: dict[str, list[int]] = {}

    def measure(self, steps: int, stop: threading.Event) -> int:
        raise NotImplementedError


@contextlib.contextmanager
def start(spec: Spec) -> Iterator[_Server]:
    """Start the server."""
    yield _Server(serve(spec))


def serve(spec: Spec) -> Any:
    """Start and return the server of a task."""
    return tf.distribute.Server(
        tf.train.ClusterSpec(spec.cluster), spec.job, spec.index, "grpc", session_config(spec)
    )


def session_config(spec: Spec) -> Any:
    """Return the sizes of the thread pools, for servers and sessions of TensorFlow 1."""
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=spec.intra_op, inter_op_parallelism_threads=spec.inter_op
    )
