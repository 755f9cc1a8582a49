"""Process of a worker or parameter server, from its start to its end.

A parameter server runs TensorFlow's own server, which executes what its clients send. A worker is
one of these clients: see `agent.py`.
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
from tf_backup._tf import grpc_environment, runtime, threads
from tf_backup.cluster import exposure, tf_config
from tf_backup.network import address, arrivals
from tf_backup.network.status import accepts, make_ready

log = logging.getLogger(__name__)

CHIEF_TIMEOUT_S = 3600.0  # Longer than it takes to restart a chief.
_CHIEF_POLL_S = 30.0
_WRONG = 2  # Exit status of a worker that does not match its cluster.
_ANSWER_S = 1.0  # For the answer to reach the chief that has dismissed this task.
_DISMISSED, _REFUSED, _FAILED = 0, 101, 102  # Distinct from signals, which use the same socket.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # They tell this process to exit.


def serve(
    *,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
    signal_exit_code: int = 0,
    lost_exit_code: int = 1,
    chief_timeout_s: float | None = CHIEF_TIMEOUT_S,
) -> NoReturn:
    """Run this process as the worker or ps task in TF_CONFIG, until it is told to exit.

    The chief tells it to exit (`tf_backup.dismiss`), or SIGTERM or SIGINT does. It then exits at
    once, because the chief can restore all of its state.

    Args:
      intra_op_threads: number of threads that one operation may use; 0 lets TensorFlow choose.
      inter_op_threads: number of operations that may run in parallel. 0 lets TensorFlow choose,
        which suits a task with a machine of its own. Any other number is for processes that share
        cores: idle threads then sleep at once, which saves a tenth of all work.
      signal_exit_code: exit code after a signal.
      lost_exit_code: exit code when there has been no chief for too long, or when a worker fails.
      chief_timeout_s: how long to wait for a chief, in seconds; None waits for ever.

    Returns:
      Never. The process exits, with code 0 if the chief has announced that training is done.
      Python's exit handlers do not run.

    Raises:
      ValueError: if TF_CONFIG is malformed, or if this task is the chief.
      ClusterError: if another program listens at this task's port.
    """
    config = tf_config.from_tf_config()
    if config.is_chief:
        raise ValueError(
            "TF_CONFIG makes this process the chief, which trains and does not serve: call "
            "tf_backup.parameter_server_strategy() in it."
        )
    grpc_environment.prepare()
    ends, tell = _listen()
    name = f"{config.task_type} {config.task_index}"
    own = config.addresses[config.task_type][config.task_index]
    arrivals.check_port(own)
    if config.task_type == "ps":
        server = _parameter_server(config, intra_op_threads, inter_op_threads)
    else:
        server = _worker(config, intra_op_threads, inter_op_threads, tell)
    log.info("%s serves at %s.", name, own)
    exposure.note([own])
    chief = config.addresses["chief"][0]
    end = _wait(ends, chief, chief_timeout_s)
    if end is None:
        reason = f"there has been no chief at {chief} for {chief_timeout_s:.0f} s"
        code = lost_exit_code
    elif end == _DISMISSED:
        reason, code = "training is done", 0
    elif end in (_REFUSED, _FAILED):
        reason, code = "see above", lost_exit_code if end == _FAILED else _WRONG
    else:
        reason, code = f"told to by {signal.Signals(end).name}", signal_exit_code
    log.info("%s at %s ends: %s.", name, own, reason)
    del server
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Threads of the server would outlive sys.exit.


def _parameter_server(config: tf_config.ClusterConfig, intra_op: int, inter_op: int) -> Any:
    """Start TensorFlow's server."""
    options = tf.compat.v1.ConfigProto()
    options.intra_op_parallelism_threads = intra_op
    options.inter_op_parallelism_threads = inter_op or threads.operations_at_once()
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
    """Start the worker in a thread, because the main thread waits for signals."""
    from tf_backup.actors import failures
    from tf_backup.actors.agent import (
        Agent,
        Dismissed,
        start_anew,  # Not needed by a parameter server.
    )

    with contextlib.suppress(RuntimeError):  # The script has used TensorFlow already.
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
        except failures.GONE as error:  # A server was lost while the agent was created.
            log.info("worker %d: %s", config.task_index, error.message)
            start_anew()
        except BaseException:
            log.exception("worker %d failed.", config.task_index)
        tell.send(bytes([end]))

    thread = threading.Thread(target=work, name="worker", daemon=True)
    thread.start()
    return thread


def _listen() -> tuple[socket.socket, socket.socket]:
    """Return a pair of sockets, to receive and to send the reason for this process to exit.

    The reason is one byte: the number of a signal, or `_DISMISSED`, `_REFUSED` or `_FAILED`.

    `server.join()` would sleep in C++ and never see a signal: exits took 31 s on Kubernetes. A
    Python handler alone would run only when the main thread next wakes up, and a signal caught by
    one of the server's own threads does not wake it: 1 of 8 processes, signaled at start, slept on.
    """
    ends, tell = socket.socketpair()
    tell.setblocking(False)

    def dismissed() -> None:
        threading.Timer(_ANSWER_S, tell.send, [bytes([_DISMISSED])]).start()

    signal.set_wakeup_fd(tell.fileno())
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    # They are blocked in a process that has restarted itself.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    runtime.at_dismissal(dismissed)
    return ends, tell


def _wait(ends: socket.socket, chief: str, timeout_s: float | None) -> int | None:
    """Wait for a reason to exit, and return it; None after `timeout_s` without a chief."""
    seen = time.monotonic()
    while True:
        end = _receive(ends, min(_CHIEF_POLL_S, timeout_s or _CHIEF_POLL_S))
        if end is not None:
            return end
        if timeout_s is None or accepts(chief):
            seen = time.monotonic()
        elif time.monotonic() - seen >= timeout_s:
            return None


def _receive(ends: socket.socket, timeout_s: float) -> int | None:
    """Return the next reason to exit; None if there is none for `timeout_s`.

    Python also sends the numbers of other signals that the user's script has a handler for.
    """
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([ends], [], [], left_s)
        if ready:
            end = ends.recv(1)[0]
            if end in (*_SIGNALS, _DISMISSED, _REFUSED, _FAILED):
                return end
    return None
