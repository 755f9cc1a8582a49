"""A worker or parameter server: TensorFlow's server, which does what the chief sends it."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

import tensorflow as tf

from tf_backup import _tf, cluster
from tf_backup.failures import answers

log = logging.getLogger(__name__)

CHIEF_TIMEOUT_S = 3600.0  # Longer than it takes to start a chief again.
_CHIEF_POLL_S = 30.0
_ANSWER_S = 1.0  # For the answer to reach the chief that told this task to end.
_DISMISSED = 0  # Among the numbers of signals.


def serve(
    *,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
    status: int = 0,
    abandoned: int = 1,
    chief_timeout_s: float | None = CHIEF_TIMEOUT_S,
) -> NoReturn:
    """Runs this process as the worker or ps task that TF_CONFIG says, until it is told to end.

    The chief tells it so (`tf_backup.dismiss`), or SIGTERM or SIGINT does. The server holds no
    state worth saving that the chief could not restore, so it ends at once.

    Args:
      intra_op_threads: threads that one operation may use; 0 lets TensorFlow choose.
      inter_op_threads: operations that may run side by side; 0 lets TensorFlow choose, which
        is what a machine of its own wants.
      status: of this process when it ends by a signal.
      abandoned: its status when there has been no chief for too long.
      chief_timeout_s: how long that is, in seconds; None waits for ever.

    Returns:
      Never: the process ends, with 0 when the chief says that training is done. Nothing that is
      registered for the end of Python runs.

    Raises:
      ValueError: if TF_CONFIG is malformed, or says that this task is the chief.
    """
    config = cluster.from_tf_config()
    if config.is_chief:
        raise ValueError(
            "TF_CONFIG makes this process the chief, which trains and does not serve: call "
            "tf_backup.parameter_server_strategy() in it."
        )
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    ends = _listen()
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
    name = f"{config.task_type} {config.task_index}"
    log.info("%s serves at %s.", name, config.addresses[config.task_type][config.task_index])
    chief = config.addresses["chief"][0]
    end = _wait(ends, chief, chief_timeout_s)
    if end is None:
        reason, code = f"there has been no chief at {chief} for {chief_timeout_s:.0f} s", abandoned
    elif end == _DISMISSED:
        reason, code = "training is done", 0
    else:
        reason, code = f"told to by {signal.Signals(end).name}", status
    log.info("%s at %s ends: %s.", name, server.target, reason)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Threads of the server would outlive sys.exit.


def _listen() -> socket.socket:
    """Returns where the numbers of the signals that end this process arrive, or `_DISMISSED`.

    server.join() would sleep in C++ and never see a signal: 31 s to end on Kubernetes. And a
    Python handler would run only when the main thread next wakes, which a signal that one of the
    server's own threads has caught does not make it: 1 of 8 who were told as they began slept on.
    """
    ends, tell = socket.socketpair()
    tell.setblocking(False)

    def dismissed() -> None:
        threading.Timer(_ANSWER_S, tell.send, [bytes([_DISMISSED])]).start()

    signal.set_wakeup_fd(tell.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _tf.at_dismissal(dismissed)
    return ends


def _wait(ends: socket.socket, chief: str, timeout_s: float | None) -> int | None:
    """Returns what told this process to end; None if there is no chief for `timeout_s`."""
    seen = time.monotonic()
    while True:
        ready, _, _ = select.select([ends], [], [], min(_CHIEF_POLL_S, timeout_s or _CHIEF_POLL_S))
        if ready:
            return ends.recv(1)[0]
        if timeout_s is None or answers(chief):
            seen = time.monotonic()
        elif time.monotonic() - seen >= timeout_s:
            return None
