"""TensorFlow's account of what failed, turned into a sentence."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from tf_backup import errors

# What TensorFlow raises when a task is gone.
GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def worker_failed(told: dict[str, Any]) -> errors.WorkerFailed:
    """Returns the error that a worker has told of, with TensorFlow's own as its cause."""
    kind = getattr(tf.errors, told["type"], tf.errors.UnknownError)
    failure = errors.WorkerFailed(
        f"Worker {told['worker']} raised {told['type']}: {told['message']}"
    )
    failure.__cause__ = kind(None, None, told["message"])
    return failure


def gist(error: BaseException) -> str:
    """Returns the line of TensorFlow's message that says what is wrong."""
    message = str(getattr(error, "message", None) or error)
    noise = (
        " ",
        "\t",
        "Graph execution error",
        "Detected at",
        "<stack traces",
        "Additional GRPC",
        ":{",
        ":UNKNOWN",
    )
    # Several causes are told as "2 root error(s) found." and then "  (0) ...".
    told = [line.removeprefix("  (0) ") for line in message.splitlines()]
    told = [line for line in told if not line.endswith("root error(s) found.")]
    told = [re.sub(r"^[A-Z_]+:(\s+|$)", "", line) for line in told if not line.startswith(noise)]
    # A check's own message may begin with an empty line, behind the name of the error.
    return next((line for line in told if line.strip()), message)
