"""Benchmark processes, as their parent sees them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.spec import Spec

_ROOT = Path(__file__).parents[2]
_END_S = 10.0  # Time to clean up, before a process is killed.


class TaskFailed(Exception):
    """A process reported an error, ended, or did not answer in time."""


class Task:
    """A running process, which ends with this one.

    Args:
      spec: specification of the process.
      folder: directory for its temporary files, which the caller deletes.
    """

    def __init__(self, spec: Spec, folder: str) -> None:
        self.spec = spec
        self._log = os.memfd_create("log")  # Not on disk, so it needs no cleaning up.
        self._received = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmarks.task", spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            cwd=_ROOT,
            env=_environment(folder),
            start_new_session=True,  # The parent alone handles Ctrl-C.
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, **command: Any) -> None:
        """Send a command.

        Raises:
          TaskFailed: if the process has ended.
        """
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")  # type: ignore[union-attr]
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Wait for a reply.

        Raises:
          TaskFailed: if the process ends, is silent for `timeout_s`, or reports an error.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            self._received += self._read(deadline, timeout_s)
        line, _, self._received = self._received.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise TaskFailed(f"{self._name}: {_gist(reply['error'])}")
        return reply

    def let_end(self) -> None:
        """Ask the process to end, without waiting for it."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def end(self) -> None:
        """End the process; kill it if it does not end by itself."""
        self.let_end()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        os.close(self._log)

    @property
    def _name(self) -> str:
        return f"{self.spec.job} {self.spec.index} ({self.spec.program}, process {self.pid})"

    def _read(self, deadline: float, timeout_s: float) -> bytes:
        """Return the next bytes that the process writes."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TaskFailed(f"{self._name} did not answer within {timeout_s:.0f} s.")
        data = os.read(self._process.stdout.fileno(), 65536)  # type: ignore[union-attr]
        if not data:
            raise self._ended()
        return data

    def _ended(self) -> TaskFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        size = os.fstat(self._log).st_size
        end = os.pread(self._log, 2000, max(0, size - 2000))
        lines = end.decode(errors="replace").strip().splitlines()
        said = f" Its last line: {lines[-1]}" if lines else ""
        return TaskFailed(f"{self._name} ended with status {self._process.returncode}.{said}")


def _environment(folder: str) -> dict[str, str]:
    """Return the environment variables of a benchmark process."""
    path = os.environ.get("PYTHONPATH")
    result = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    return result | {
        "CUDA_VISIBLE_DEVICES": "-1",  # The processes would compete for one GPU.
        "GRPC_FAIL_FAST": "use_caller",
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TMPDIR": folder,
    }


def _gist(error: str) -> str:
    """Return the first line of an error message, shortened."""
    line = error.strip().splitlines()[0]
    return line if len(line) <= 300 else line[:300] + " ..."
