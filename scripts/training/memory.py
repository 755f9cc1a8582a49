"""Memory of this machine, and the memory that a local cluster needs."""

from __future__ import annotations

GIB = 2**30
PROCESS_GIB = 0.35  # TensorFlow alone, in a worker or ps that has just started.

_MEMINFO = "/proc/meminfo"


def available_gib(path: str = _MEMINFO) -> float | None:
    """Return the memory that is free or can be freed, in GiB; None if Linux does not say."""
    try:
        with open(path, encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
    except OSError:
        return None
    kib = fields.get("MemAvailable", "").split()
    return int(kib[0]) * 1024 / GIB if kib else None


def check(workers: int, ps: int, available: float | None) -> None:
    """Check that a local cluster fits into memory.

    Args:
      workers: number of worker processes, N + b.
      ps: number of parameter servers.
      available: available memory in GiB; None if unknown.

    Raises:
      ValueError: if the processes need more than that just to start.
    """
    needed = (workers + ps) * PROCESS_GIB
    if available is not None and needed > available:
        raise ValueError(
            f"--replicas and --backups make {workers} workers, with {ps} parameter servers: as "
            f"processes on this machine they need {needed:.1f} GiB or more, but only "
            f"{available:.1f} GiB are available. Lower --replicas, --backups or --ps_tasks (or "
            "take --recipe=small), or start the tasks of a job on several machines, each with its "
            "TF_CONFIG."
        )
