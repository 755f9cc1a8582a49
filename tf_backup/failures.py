"""TensorFlow's account of what failed, turned into a sentence."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_backup import _tf, errors

PROBE_TIMEOUT_S = 1.0

# What TensorFlow raises when a task is gone.
GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


@contextlib.contextmanager
def told_plainly(strategy: Any) -> Iterator[None]:
    """Raises `ParameterServerLost` in the place of what TensorFlow says of a lost server."""
    try:
        yield
    except GONE as error:
        check_servers(strategy, error)
        raise


def check_servers(strategy: Any, cause: BaseException | None = None) -> None:
    """Raises `ParameterServerLost` if a parameter server does not answer.

    Where something has failed already (`cause`), also if one answers that has been restarted.
    """
    addresses = _tf.cluster_addresses(strategy, "ps")
    again = "run this command again; it goes on from the last checkpoint if it saves them."
    for index, address in enumerate(addresses):
        if not answers(address):
            raise errors.ParameterServerLost(
                f"Parameter server {index} ({address}) is gone, and its part of the parameters "
                f"with it. Start it again, then {again}"
            ) from cause
    if cause is None:
        return
    for index, address in enumerate(addresses):
        if not _tf.is_known(_tf.ps_device(index)):
            raise errors.ParameterServerLost(
                f"Parameter server {index} ({address}) has been restarted, and its part of the "
                f"parameters is gone: {again}"
            ) from cause


def worker_failed(strategy: Any, worker: int | None, error: BaseException) -> errors.TfBackupError:
    """Returns the error of a worker's function, told as what it is."""
    if isinstance(error, GONE):
        check_servers(strategy, error)
    who = "A worker" if worker is None else f"Worker {worker}"
    failure = errors.WorkerFailed(f"{who} raised {type(error).__name__}: {gist(error)}")
    failure.__cause__ = error
    return failure


def gist(error: BaseException) -> str:
    """Returns the line of TensorFlow's message that says what is wrong."""
    message = str(getattr(error, "message", None) or error)
    noise = (" ", "\t", "Graph execution error", "Detected at", "Additional GRPC", ":{", ":UNKNOWN")
    # Several causes are told as "2 root error(s) found." and then "  (0) ...".
    told = [line.removeprefix("  (0) ") for line in message.splitlines()]
    told = [line for line in told if not line.endswith("root error(s) found.")]
    lines = [line for line in told if line.strip() and not line.startswith(noise)]
    return lines[0] if lines else message


def answers(address: str) -> bool:
    """Returns whether somebody accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
