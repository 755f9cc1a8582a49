"""Starts the processes of a `LocalCluster` by forking one that has imported TensorFlow.

The import takes each process about three seconds of a core, most of what it takes to start one.
TensorFlow may be forked before its first use: until then it has started no threads and drawn no
random numbers. Python's `multiprocessing` has a fork server, too, but runs the user's script anew
in each process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import NoReturn

from tf_backup import errors

# NumPy would start threads, and a process with threads should not be forked. TensorFlow would
# import Keras 3, which tasks have no use for, and which takes half as long as all the rest.
_LEAN = {"OPENBLAS_NUM_THREADS": "1", "TF_USE_LEGACY_KERAS": "1"}
_ANSWER_S = 120.0  # For an answer: the first comes when TensorFlow is imported.
_END_S = 0.5  # For the fork server to end once its input has closed: at once, if it is ready.


class Task:
    """A process that a fork server has started. Relies on Linux' process file descriptors.

    Args:
      pid: its process id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd: int | None = None
        with contextlib.suppress(ProcessLookupError):  # It has ended already.
            self._fd = os.pidfd_open(pid)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Waits until it has ended, or no longer than a time; returns whether it has."""
        if self._fd is not None and select.select([self._fd], [], [], max(0.0, timeout_s))[0]:
            os.close(self._fd)
            self._fd = None
        return self._fd is None

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self._fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        """Ends it at once, and waits for that."""
        self.send_signal(signal.SIGKILL)
        while not self.wait(1.0):
            pass


class ForkServer:
    """The process that is forked, as the one that has started it sees it.

    Args:
      environment: of the processes that it starts.
      lifeline: the end of a pipe to read from: they end when the other end closes.
      log_path: of the file for what it says if something goes wrong.
    """

    def __init__(self, environment: Mapping[str, str], lifeline: int, log_path: str) -> None:
        self._log_path = log_path
        self._lock = threading.Lock()
        with open(log_path, "ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tf_backup.cluster.fork_server", str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env={**environment, **_LEAN},
                pass_fds=[lifeline],
                start_new_session=True,  # Ctrl-C is for its parent to handle.
            )

    def ready(self) -> None:
        """Waits until it can be forked.

        Raises:
          ClusterError: if it has ended instead, or does not answer.
        """
        self._order(b"")

    def start(self, tf_config: str, log_path: str, arguments: list[str]) -> Task:
        """Starts a process that serves: see `local_task.main`.

        Args:
          tf_config: which task it is.
          log_path: of the file that what it says is added to.
          arguments: of `local_task`.

        Raises:
          ClusterError: if the fork server has ended, or does not answer.
        """
        order = {"tf_config": tf_config, "log": log_path, "arguments": arguments}
        return Task(int(self._order(json.dumps(order).encode())))

    def close(self) -> None:
        """Ends it. Tasks go on until the lifeline closes."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # It imports.
            self._process.kill()
            self._process.wait()
        stdout.close()

    def _order(self, order: bytes) -> bytes:
        """Sends it a line, and returns its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        answer = b""
        try:
            with self._lock, contextlib.suppress(BrokenPipeError):
                stdin.write(order + b"\n")
                stdin.flush()
                if select.select([stdout], [], [], _ANSWER_S)[0]:
                    answer = stdout.readline()
        except BaseException:
            self._process.kill()  # Its answer would be taken for that to the next order.
            raise
        if not answer:
            self._fail()
        return answer

    def _fail(self) -> NoReturn:
        """Raises what has become of it."""
        self._process.kill()  # Has no effect on one that has ended.
        status = self._process.wait()
        with open(self._log_path) as log_file:
            wrote = log_file.read()[-2000:]
        raise errors.ClusterError(
            "The process that starts the local cluster's tasks has ended, or has not answered for "
            f"{_ANSWER_S:.0f} s (exit code {status}): no task can be started any more. The end of "
            f"what it wrote:\n{wrote}"
        )


def main() -> None:
    """Starts a task for every line on standard input that is not empty, until that closes.

    Answers each line with one: the process id of the task.
    """
    import tf_backup.actors.agent  # noqa: F401  # All that a task needs.
    from tf_backup.cluster import local_task

    lifeline = int(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody asks for their exit codes.
    while line := sys.stdin.readline():
        order = json.loads(line.strip() or "null")
        pid = os.fork() if order else -1
        if not pid:
            _become(order["tf_config"], order["log"], lifeline)
            # As if it had been started this way, for when it begins anew.
            sys.orig_argv[1:] = [
                "-m",
                "tf_backup.cluster.local_task",
                *order["arguments"],
            ]
            sys.argv[1:] = order["arguments"]
            local_task.main()
        print(pid, flush=True)
    os._exit(0)  # TensorFlow takes most of a second to end.


def _become(tf_config: str, log_path: str, lifeline: int) -> None:
    """Makes a copy of the fork server a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for source, target in ((lifeline, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(lifeline)
    os.environ["TF_CONFIG"] = tf_config


if __name__ == "__main__":
    main()
