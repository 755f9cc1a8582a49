"""Memory of this machine or container, and the memory that a local cluster needs."""

from __future__ import annotations

import psutil

from scripts.training.control_groups import memory_limits

GIB = 2**30
PROCESS_GIB = 0.35  # TensorFlow alone, in a worker or ps that has just started.


def available_gib() -> float:
    """Return the memory that is free or can be freed, in GiB.

    In a container with a limit, this is at most what is left of it.
    """
    left = [limit.left for limit in memory_limits()]
    return float(min([psutil.virtual_memory().available, *left]) / GIB)


def total_gib() -> float:
    """Return the memory of this machine, in GiB; in a container, at most its limit."""
    most = [limit.most for limit in memory_limits()]
    return float(min([psutil.virtual_memory().total, *most]) / GIB)


def check(workers: int, ps: int, available: float) -> None:
    """Check that a local cluster fits into memory.

    Args:
      workers: number of worker processes, N + b.
      ps: number of parameter servers.
      available: available memory in GiB.

    Raises:
      ValueError: if the processes need more than that just to start.
    """
    needed = (workers + ps) * PROCESS_GIB
    if needed > available:
        raise ValueError(
            f"--replicas and --backups make {workers} workers, with {ps} parameter servers: as "
            f"processes on this machine they need {needed:.1f} GiB or more, but only "
            f"{available:.1f} GiB are available. Lower --replicas, --backups or --ps_tasks (or "
            "take --recipe=small), or start the tasks of a job on several machines, each with its "
            "TF_CONFIG."
        )
