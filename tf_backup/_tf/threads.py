"""Threads that run TensorFlow's operations in a task of a cluster."""

from __future__ import annotations

import os

import tensorflow as tf

from tf_backup import errors

_OPERATIONS = 4


def operations_at_once() -> int:
    """Return how many operations a server may run at once: 0 lets TensorFlow choose.

    On a machine with one core, TensorFlow would run one at a time. The first call of a chief to a
    server then never returned (TensorFlow 2.20); with two at a time it did.
    """
    chosen = tf.config.threading.get_inter_op_parallelism_threads()
    variable = os.environ.get("TF_NUM_INTEROP_THREADS", "")
    chosen = chosen or (int(variable) if variable.isdigit() else 0)
    return 0 if (chosen or len(os.sched_getaffinity(0))) > 1 else _OPERATIONS


def allow_operations_at_once() -> None:
    """Let this process run several operations at once, also on a machine with one core.

    Raises:
      ClusterError: if TensorFlow has been used, and runs one at a time.
    """
    if operations := operations_at_once():
        try:
            tf.config.threading.set_inter_op_parallelism_threads(operations)
        except RuntimeError as error:
            raise errors.ClusterError(
                "TensorFlow runs one operation at a time in this process, since there is one core "
                "or it was configured so. A task of a cluster needs two or more. Create the "
                "strategy before anything else uses TensorFlow, or set the environment variable "
                f"TF_NUM_INTEROP_THREADS={operations}."
            ) from error
