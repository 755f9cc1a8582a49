"""A worker or parameter server: TensorFlow's server, which does what the chief sends it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import tensorflow as tf

from tf_backup import cluster

log = logging.getLogger(__name__)


def serve(*, intra_op_threads: int = 0, inter_op_threads: int = 0, status: int = 0) -> NoReturn:
    """Runs this process as the worker or ps task that TF_CONFIG says, until SIGTERM or SIGINT.

    The server holds no state worth saving that the chief could not restore, so it ends at once.

    Args:
      intra_op_threads: threads that one operation may use; 0 lets TensorFlow choose.
      inter_op_threads: operations that may run side by side; 0 lets TensorFlow choose, which
        is what a machine of its own wants.
      status: of this process when it has been told to end.

    Raises:
      ValueError: if TF_CONFIG is malformed, or says that this task is the chief.
      SystemExit: always, with that status, when told to end.
    """
    config = cluster.from_tf_config()
    if config.is_chief:
        raise ValueError(
            "TF_CONFIG makes this process the chief, which trains and does not serve: call "
            "tf_backup.parameter_server_strategy() in it."
        )
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    done = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        done.set()

    # server.join() would sleep in C++ and never see the signal: 31 s to end on Kubernetes.
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    options = tf.compat.v1.ConfigProto()
    options.intra_op_parallelism_threads = intra_op_threads
    options.inter_op_parallelism_threads = inter_op_threads
    server = tf.distribute.Server(
        config.resolver().cluster_spec(),
        job_name=config.task_type,
        task_index=config.task_index,
        protocol="grpc",
        config=options,
    )
    address = config.addresses[config.task_type][config.task_index]
    log.info("%s %d serves at %s.", config.task_type, config.task_index, address)
    done.wait()
    log.info("%s %d at %s ends.", config.task_type, config.task_index, server.target)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # Threads of the server would outlive sys.exit.
