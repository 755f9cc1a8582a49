"""Short error messages from TensorFlow's errors."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from tf_backup import errors

# Errors that TensorFlow raises when a task is gone.
GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def worker_failed(report: dict[str, Any]) -> errors.WorkerFailed:
    """Return the error for a worker's error report, with TensorFlow's error as its cause."""
    kind = getattr(tf.errors, report["type"], tf.errors.UnknownError)
    failure = errors.WorkerFailed(
        f"Worker {report['worker']} raised {report['type']}: {report['message']}"
    )
    failure.__cause__ = kind(None, None, report["message"])
    return failure


def gist(error: BaseException) -> str:
    """Return the line of TensorFlow's error message that says what is wrong."""
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
    # Several causes are listed as "2 root error(s) found.", followed by "  (0) ...".
    lines = [line.removeprefix("  (0) ") for line in message.splitlines()]
    lines = [line for line in lines if not line.endswith("root error(s) found.")]
    lines = [re.sub(r"^[A-Z_]+:(\s+|$)", "", line) for line in lines if not line.startswith(noise)]
    # A check's own message may begin with an empty line, after the name of the error.
    return next((line for line in lines if line.strip()), message)
