"""Environment of a benchmark: machine, versions and settings."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import tf_backup
from scripts.training import memory

_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Environment:
    """Machine, versions and settings that a result depends on.

    Attributes:
      date: start of the benchmark, in UTC.
      commit: commit of this repository, followed by "+" if files have changed since.
      tf_backup: version of tf_backup.
      tensorflow: version of TensorFlow.
      keras: version of Keras.
      python: version of Python.
      cpu: model name of the processor.
      cores: number of cores that this process may use.
      memory_gib: memory of the machine, or the limit of a container that this process is in.
      intra_op_threads: number of threads for one operation, in every process.
    """

    date: str
    commit: str
    tf_backup: str
    tensorflow: str
    keras: str
    python: str
    cpu: str
    cores: int
    memory_gib: int
    intra_op_threads: int

    @classmethod
    def here(cls, intra_op_threads: int) -> Environment:
        """Return the environment of this process."""
        return cls(
            date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
            commit=_commit(),
            tf_backup=tf_backup.__version__,
            tensorflow=_tensorflow(),
            keras=importlib.metadata.version("keras"),
            python=platform.python_version(),
            cpu=_processor(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(memory.total_gib()),
            intra_op_threads=intra_op_threads,
        )

    def __str__(self) -> str:
        """Return a description in one line."""
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gib} GiB; {self.intra_op_threads} "
            f"intra-op thread{'s' if self.intra_op_threads > 1 else ''} in every process; "
            f"TensorFlow {self.tensorflow}, Keras {self.keras}, Python {self.python}; "
            f"tf_backup {self.tf_backup} at {self.commit}, {self.date} UTC"
        )


def _tensorflow() -> str:
    """Return the version of TensorFlow, whose package may have another name."""
    for name in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "unknown"


def _commit() -> str:
    """Return the commit that is checked out, or "unknown" outside a clone."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _processor() -> str:
    """Return the model name of the processor, which neither psutil nor `platform` has on Linux."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"
