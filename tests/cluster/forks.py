"""Programs as forks of one process that has imported TensorFlow and Keras.

The import takes seconds of a core, and the tests start a hundred programs. A fork imports the
project's own modules itself. The fork server of a fork's local cluster is a fork, too. Use
`processes.start_fresh` to test what a program does while it imports TensorFlow.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_FORK_SERVER = ["-m", "tf_backup.cluster.fork_server"]  # And the number of its lifeline.


class Program:
    """Running program, with the methods of `subprocess.Popen` that the tests use.

    Args:
      pid: process id of the program, a child of this process.
      args: command of the program.
      stdout: read end of its pipe, if there is one.
      stderr: the same.
    """

    def __init__(
        self, pid: int, args: Sequence[str], stdout: int | None, stderr: int | None
    ) -> None:
        self.pid, self.args = pid, args
        self.returncode: int | None = None
        self.stdout, self.stderr = (
            None if each is None else os.fdopen(each, encoding="utf-8") for each in (stdout, stderr)
        )

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                assert timeout is not None
                raise subprocess.TimeoutExpired(list(self.args), timeout)
            time.sleep(0.005)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end, and return the rest of both outputs."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        said = {"stdout": "", "stderr": ""}

        def read(name: str) -> None:
            file = getattr(self, name)
            if file is not None and not file.closed:
                said[name] = file.read()
                file.close()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in said]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if timeout is None else max(0.0, end - time.monotonic()))
            if reader.is_alive():
                assert timeout is not None
                raise subprocess.TimeoutExpired(list(self.args), timeout)
        self.wait(None if timeout is None else max(0.0, end - time.monotonic()))
        return said["stdout"], said["stderr"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str], cwd: str, env: Mapping[str, str], log: int | None = None
) -> Program:
    """Start `python COMMAND`.

    Args:
      command: a script, `-m` and a module, or `-c` and code; then arguments.
      cwd: working directory.
      env: environment variables.
      log: file descriptor for both outputs; None for pipes.
    """
    read: list[int | None] = [None, None]
    written = [log, log]
    if log is None:
        (read[0], written[0]), (read[1], written[1]) = os.pipe(), os.pipe()
    order = json.dumps({"command": list(command), "cwd": cwd, "env": dict(env)}).encode()
    server = _server()
    socket.send_fds(server, [len(order).to_bytes(4, "big")], [int(each or 0) for each in written])
    server.sendall(order)
    pid = int.from_bytes(server.recv(4), "big")
    if log is None:
        for each in written:
            os.close(int(each or 0))
    return Program(pid, command, *read)


@functools.cache
def _server() -> socket.socket:
    """Return the connection to the process that is forked, always the same one."""
    # Forks whose parent has ended become children of this process.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair()
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())], env=env, pass_fds=[theirs.fileno()]
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(orders: socket.socket) -> None:
    """Fork a program for each order, until the connection is closed."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    while True:
        size, outputs, _, _ = socket.recv_fds(orders, 4, 2)
        if not size:
            os._exit(0)
        order = json.loads(orders.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        told, tells = os.pipe()
        helper = os.fork()  # Ends at once, so that the subreaper becomes its child's parent.
        if not helper:
            pid = os.fork()
            if pid:
                os.write(tells, pid.to_bytes(4, "big"))
                os._exit(0)
            for each in (told, tells, orders.detach()):
                os.close(each)
            _become(order, outputs)
            return
        os.waitpid(helper, 0)
        orders.sendall(os.read(told, 4))
        for each in (told, tells, *outputs):
            os.close(each)


def _become(order: dict[str, Any], outputs: Sequence[int]) -> None:
    """Turn this fork into the program of an order."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip([nothing, *outputs], (0, 1, 2), strict=True):
        os.dup2(source, target)
    for each in {nothing, *outputs}:
        os.close(each)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.orig_argv = [sys.executable, *order["command"]]
    sys.path[:0] = [order["cwd"], *order["env"]["PYTHONPATH"].split(os.pathsep)]


class _Spare:
    """Fork of a program at its beginning, which becomes the fork server of its local cluster.

    The program's second one, and those of programs that are not forks, import TensorFlow.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._pid = os.fork()
        if not self._pid:
            self._socket.close()
            _become_fork_server(theirs)
        theirs.close()
        self._popen = subprocess.Popen

    def popen(self, args: Sequence[str], **options: Any) -> Any:
        """Stand in for `subprocess.Popen`."""
        if list(args[1:-1]) != _FORK_SERVER:
            return self._popen(args, **options)
        subprocess.Popen = self._popen  # type: ignore[misc]
        (reads, stdin), (stdout, writes) = os.pipe(), os.pipe()
        fds = [reads, writes, options["stderr"].fileno(), int(args[-1])]
        order = json.dumps(dict(options["env"])).encode()
        socket.send_fds(self._socket, [len(order).to_bytes(4, "big")], fds)
        self._socket.sendall(order)
        self._socket.close()
        os.close(reads)
        os.close(writes)
        process: Any = Program(self._pid, args, None, None)
        process.stdin, process.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
        return process


def _become_fork_server(order: socket.socket) -> NoReturn:
    """Wait for an order, and turn this fork into the fork server of a cluster."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program.
    size, fds, _, _ = socket.recv_fds(order, 4, 4)
    if not size:  # The program has ended without a local cluster.
        os._exit(0)
    environment = json.loads(order.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
    order.close()
    os.setsid()
    for target, source in enumerate(fds[:3]):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.orig_argv = [sys.executable, *_FORK_SERVER, str(fds[3])]
    _show_command(sys.orig_argv[1:])
    _run(sys.orig_argv[1:])
    sys.exit(0)


def _show_command(command: Sequence[str]) -> None:
    """Make a command the one that `ps` shows of this process, instead of what it is a fork of."""
    with open("/proc/self/stat") as file:
        begin, end = map(int, file.read().rpartition(")")[2].split()[45:47])
    text = b"".join(word.encode() + b"\0" for word in ("python", *command))
    assert len(text) <= end - begin
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))


def _run(command: list[str]) -> None:
    """Run the command as Python would."""
    import runpy

    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = command
        sys.path[0] = os.path.dirname(os.path.abspath(command[0]))
        runpy.run_path(command[0], run_name="__main__")


def _main() -> NoReturn:
    _serve(socket.socket(fileno=int(sys.argv[1])))
    subprocess.Popen = _Spare().popen  # type: ignore[assignment, misc]
    _run(sys.orig_argv[1:])
    sys.exit(0)


if __name__ == "__main__":
    del sys.path[0]  # Keeps the folder of this script out of its forks' path.
    _main()
