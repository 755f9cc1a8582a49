"""A worker or parameter server, from its start to its end.

A parameter server is TensorFlow's own server, which does what its clients send it. A worker is one
of these clients: see `agent.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import tensorflow as tf

from tf_backup import errors
from tf_backup._tf import runtime
from tf_backup.cluster import tf_config
from tf_backup.network import address, arrivals
from tf_backup.network.status import accepts, make_ready

log = logging.getLogger(__name__)

CHIEF_TIMEOUT_S = 3600.0  # Longer than it takes to start a chief again.
_CHIEF_POLL_S = 30.0
_WRONG = 2  # The status of a worker that does not fit its cluster.
_ANSWER_S = 1.0  # For the answer to reach the chief that told this task to end.
_DISMISSED, _REFUSED, _FAILED = 0, 101, 102  # Among the numbers of signals.


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
        is what a machine of its own wants. Where there is a number, processes share their cores:
        then threads that have nothing to do sleep at once, which saves a tenth of all work.
      status: of this process when it ends by a signal.
      abandoned: its status when there has been no chief for too long.
      chief_timeout_s: how long that is, in seconds; None waits for ever.

    Returns:
      Never: the process ends, with 0 when the chief says that training is done. Nothing that is
      registered for the end of Python runs.

    Raises:
      ValueError: if TF_CONFIG is malformed, or says that this task is the chief.
      ClusterError: if something else listens at this task's port.
    """
    config = tf_config.from_tf_config()
    if config.is_chief:
        raise ValueError(
            "TF_CONFIG makes this process the chief, which trains and does not serve: call "
            "tf_backup.parameter_server_strategy() in it."
        )
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    ends, tell = _listen()
    name = f"{config.task_type} {config.task_index}"
    own = config.addresses[config.task_type][config.task_index]
    arrivals.check_port(own)
    if config.task_type == "ps":
        server = _parameter_server(config, intra_op_threads, inter_op_threads)
    else:
        server = _worker(config, intra_op_threads, inter_op_threads, tell)
    log.info("%s serves at %s.", name, own)
    chief = config.addresses["chief"][0]
    end = _wait(ends, chief, chief_timeout_s)
    if end is None:
        reason, code = f"there has been no chief at {chief} for {chief_timeout_s:.0f} s", abandoned
    elif end == _DISMISSED:
        reason, code = "training is done", 0
    elif end in (_REFUSED, _FAILED):
        reason, code = "see above", abandoned if end == _FAILED else _WRONG
    else:
        reason, code = f"told to by {signal.Signals(end).name}", status
    log.info("%s at %s ends: %s.", name, own, reason)
    del server
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Threads of the server would outlive sys.exit.


def _parameter_server(config: tf_config.ClusterConfig, intra_op: int, inter_op: int) -> Any:
    """Starts TensorFlow's server."""
    options = tf.compat.v1.ConfigProto()
    options.intra_op_parallelism_threads = intra_op
    options.inter_op_parallelism_threads = inter_op
    options.experimental.disable_thread_spinning = inter_op > 0
    job, index = config.task_type, config.task_index
    server = tf.distribute.Server(
        config.resolver().cluster_spec(),
        job_name=job,
        task_index=index,
        protocol="grpc",
        config=options,
    )
    _, port = address.split(config.addresses[job][index])
    make_ready(f"localhost:{port}", job, index)
    return server


def _worker(
    config: tf_config.ClusterConfig, intra_op: int, inter_op: int, tell: socket.socket
) -> Any:
    """Starts what a worker does, in a thread: this one must stay awake to signals."""
    from tf_backup.actors import failures
    from tf_backup.actors.agent import (
        Agent,
        Dismissed,
        start_anew,  # A parameter server does not need it.
    )

    with contextlib.suppress(RuntimeError):  # The script has used TensorFlow before.
        tf.config.threading.set_intra_op_parallelism_threads(intra_op)
        tf.config.threading.set_inter_op_parallelism_threads(inter_op)
    if inter_op > 0:
        runtime.let_threads_sleep()

    def work() -> None:
        end = _FAILED
        try:
            Agent(config.addresses, config.task_index).work()
        except Dismissed:
            end = _DISMISSED
        except ValueError as error:
            log.error("%s", error)
            end = _REFUSED
        except errors.ClusterError as error:
            log.error("%s", error)
        except failures.GONE as error:  # At once, before the agent looks after itself.
            log.info("worker %d: %s", config.task_index, error.message)
            start_anew()
        except BaseException:
            log.exception("worker %d failed.", config.task_index)
        tell.send(bytes([end]))

    thread = threading.Thread(target=work, name="worker", daemon=True)
    thread.start()
    return thread


def _listen() -> tuple[socket.socket, socket.socket]:
    """Returns where the number of what ends this process arrives, and where it is told.

    It is a signal's, or `_DISMISSED`, `_REFUSED` or `_FAILED`.

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
    # A process that began anew has kept them waiting.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])
    runtime.at_dismissal(dismissed)
    return ends, tell


def _wait(ends: socket.socket, chief: str, timeout_s: float | None) -> int | None:
    """Returns what told this process to end; None if there is no chief for `timeout_s`."""
    seen = time.monotonic()
    while True:
        ready, _, _ = select.select([ends], [], [], min(_CHIEF_POLL_S, timeout_s or _CHIEF_POLL_S))
        if ready:
            return ends.recv(1)[0]
        if timeout_s is None or accepts(chief):
            seen = time.monotonic()
        elif time.monotonic() - seen >= timeout_s:
            return None
