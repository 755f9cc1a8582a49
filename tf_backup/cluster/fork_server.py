"""Fork server that starts the processes of a `LocalCluster` with TensorFlow already imported.

The import takes about three seconds of a core, which is most of the time to start a process.
Forking is safe before TensorFlow's first use: until then it has started no threads and drawn no
random numbers. The fork server of Python's `multiprocessing` would run the user's script again in
each process.
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
# import Keras 3, which tasks do not need and which takes half as long as everything else.
_LEAN = {"OPENBLAS_NUM_THREADS": "1", "TF_USE_LEGACY_KERAS": "1"}
_END_S = 0.5  # For the fork server to exit after its input closes; if ready, it does so at once.


class Task:
    """A process that a fork server has started. Relies on Linux process file descriptors.

    Args:
      pid: process id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd: int | None = None
        with contextlib.suppress(ProcessLookupError):  # It has exited already.
            self._fd = os.pidfd_open(pid)

    @property
    def ended(self) -> bool:
        """Whether the process has exited."""
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process exits, for at most `timeout_s`; return whether it has."""
        if self._fd is not None and select.select([self._fd], [], [], max(0.0, timeout_s))[0]:
            os.close(self._fd)
            self._fd = None
        return self._fd is None

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has exited."""
        if self._fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        """Kill the process, and wait until it has exited."""
        self.send_signal(signal.SIGKILL)
        while not self.wait(1.0):
            pass


class ForkServer:
    """Handle of a fork server, in the process that has started it.

    Args:
      environment: environment of the fork server and of the tasks that it starts.
      lifeline: read end of a pipe. The tasks exit when the other end closes.
      log_path: path of the file for the fork server's standard error.
      patience_s: how long it may take to answer; the first time, once TensorFlow is imported.
    """

    def __init__(
        self, environment: Mapping[str, str], lifeline: int, log_path: str, patience_s: float
    ) -> None:
        self._log_path, self._patience_s = log_path, patience_s
        self._lock = threading.Lock()
        with open(log_path, "ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tf_backup.cluster.fork_server", str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env={**environment, **_LEAN},
                pass_fds=[lifeline],
                start_new_session=True,  # Only the parent handles Ctrl-C.
            )

    def ready(self) -> None:
        """Wait until the fork server is ready to start tasks.

        Raises:
          ClusterError: if the fork server has exited, or does not answer.
        """
        self._order(b"")

    def start(self, tf_config: str, log_path: str, arguments: list[str]) -> Task:
        """Start the process of a task; see `local_task.main`.

        Args:
          tf_config: TF_CONFIG of the task.
          log_path: path of the file that its output is appended to.
          arguments: command-line arguments of `local_task`.

        Raises:
          ClusterError: if the fork server has exited, or does not answer.
        """
        order = {"tf_config": tf_config, "log": log_path, "arguments": arguments}
        return Task(int(self._order(json.dumps(order).encode())))

    def close(self) -> None:
        """End the fork server. Tasks continue until the lifeline closes."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # It is still importing TensorFlow.
            self._process.kill()
            self._process.wait()
        stdout.close()

    def _order(self, order: bytes) -> bytes:
        """Send a line to the fork server, and return its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        answer = b""
        try:
            with self._lock, contextlib.suppress(BrokenPipeError):
                stdin.write(order + b"\n")
                stdin.flush()
                if select.select([stdout], [], [], self._patience_s)[0]:
                    answer = stdout.readline()
        except BaseException:
            self._process.kill()  # Its answer would be read as the answer to the next order.
            raise
        if not answer:
            self._fail()
        return answer

    def _fail(self) -> NoReturn:
        """Raise an error that tells how the fork server failed."""
        self._process.kill()  # Has no effect if it has exited.
        status = self._process.wait()
        with open(self._log_path) as log_file:
            wrote = log_file.read()[-2000:]
        raise errors.ClusterError(
            "The process that starts the local cluster's tasks has ended, or has not answered for "
            f"{self._patience_s:g} s (exit code {status}): no task can be started any more. The "
            f"end of what it wrote:\n{wrote}"
        )


def main() -> None:
    """Start a task for every non-empty line on standard input, until it closes.

    Each line is answered with the process id of the task, or -1 for an empty line.
    """
    import tf_backup.actors.agent  # noqa: F401  # Imports everything that a task needs.
    from tf_backup.cluster import local_task

    lifeline = int(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody reads their exit codes.
    while line := sys.stdin.readline():
        order = json.loads(line.strip() or "null")
        pid = os.fork() if order else -1
        if not pid:
            _become(order["tf_config"], order["log"], lifeline)
            # As if started this way, so that it can restart itself with `start_anew`.
            sys.orig_argv[1:] = [
                "-m",
                "tf_backup.cluster.local_task",
                *order["arguments"],
            ]
            sys.argv[1:] = order["arguments"]
            local_task.main()
        print(pid, flush=True)
    os._exit(0)  # Skips TensorFlow's shutdown, which takes most of a second.


def _become(tf_config: str, log_path: str, lifeline: int) -> None:
    """Turn a forked copy of the fork server into an independent process."""
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
