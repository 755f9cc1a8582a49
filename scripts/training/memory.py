"""Whether the processes of a local cluster fit into this machine's memory."""

from __future__ import annotations

GIB = 2**30
PROCESS_GIB = 0.35  # TensorFlow itself, in a worker or ps that has hardly begun.

_MEMINFO = "/proc/meminfo"


def available_gib(path: str = _MEMINFO) -> float | None:
    """Returns how much memory is free or can be made so; None where Linux does not say it."""
    try:
        with open(path, encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
    except OSError:
        return None
    kib = fields.get("MemAvailable", "").split()
    return int(kib[0]) * 1024 / GIB if kib else None


def check(workers: int, ps: int, available: float | None) -> None:
    """Refuses a local cluster that is too large.

    Args:
      workers: processes, N + b.
      ps: processes.
      available: memory in GiB; None if nobody knows.

    Raises:
      ValueError: if they cannot even start in it.
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
