"""A process of scripts/train.py with a local cluster, started again when it was ended."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from scripts.faults.fault import Target
from scripts.faults.process_tree import find

_SCRIPT = Path(__file__).parents[1] / "train.py"
_END_S = 15.0  # For a checkpoint, and the end of the cluster.
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_TAIL = 1500


class TrainingProcess:
    """Process of scripts/train.py, which ends with this one.

    Args:
      flags: flags of train.py.
      folder: directory for its update log, summary and output, which exists.
    """

    def __init__(self, flags: Sequence[str], folder: str) -> None:
        self._updates = os.path.join(folder, "updates.jsonl")
        self._summary = os.path.join(folder, "summary.json")
        self._output = os.path.join(folder, "train.log")
        self._flags = [*flags, f"--update_log={self._updates}", f"--summary_json={self._summary}"]
        self._read, self._rest = 0, b""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, for the first time or again after it ended."""
        with open(self._output, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(_SCRIPT), *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={name: value for name, value in os.environ.items() if name != "TF_CONFIG"},
                start_new_session=True,  # This process alone handles Ctrl-C.
                preexec_fn=_end_with_parent,
            )

    @property
    def status(self) -> int | None:
        """Exit status; None while the process runs."""
        return None if self._process is None else self._process.poll()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary that train.py writes when training is done; None before."""
        try:
            with open(self._summary, encoding="utf-8") as file:
                result: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            return None
        return result

    @property
    def tail(self) -> str:
        """The end of what the process wrote."""
        with open(self._output, "rb") as file:
            file.seek(max(0, os.path.getsize(self._output) - _TAIL))
            return file.read().decode(errors="replace").strip()

    def find(self, target: Target) -> psutil.Process | None:
        """Return the process of a task; None if it does not run at the moment."""
        if self._process is None or self.status is not None:
            return None
        return find(self._process.pid, target)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the new lines of the update log."""
        if not os.path.exists(self._updates):
            return
        with open(self._updates, "rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def end(self) -> None:
        """End the process and its cluster; kill them if they do not end in time."""
        if self._process is None or self.status is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
