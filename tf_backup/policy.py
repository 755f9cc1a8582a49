"""How many gradients make an update, how many workers may be late, and gradients old."""

from __future__ import annotations

import dataclasses

from tf_backup.checks import checked_int


@dataclasses.dataclass(frozen=True)
class BackupPolicy:
    """Which gradients make an update: N, b, and how old they may be.

    The staleness of a gradient is the number of updates made between the parameters that it is
    of and the update that uses it. With N = 1 and no bound it is on average the number of
    workers less one.

    Args:
      replicas: N, the gradients averaged in one update; at least 1.
      backups: b, the workers beyond N that nobody waits for; at least 0.
      max_staleness: the greatest staleness of a gradient that is used. 0: none is old, which is
        synchronous SGD with backup workers. None: no bound, which with N = 1 is asynchronous
        SGD, and with N > 1 is also known as softsync.

    Raises:
      TypeError: if one is not an int.
      ValueError: if one is out of range.

    Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 1 and 2
    (asynchronous), 3 and 4 (synchronous).
    """

    replicas: int
    backups: int = 0
    max_staleness: int | None = 0

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("backups", 0), ("max_staleness", 0)):
            value = getattr(self, name)
            if name != "max_staleness" or value is not None:
                object.__setattr__(self, name, checked_int(name, value, least))

    @classmethod
    def asynchronous(cls, workers: int, max_staleness: int | None = None) -> BackupPolicy:
        """Every gradient of `workers` is an update of its own, unless it is too old."""
        return cls(
            replicas=1, backups=checked_int("workers", workers) - 1, max_staleness=max_staleness
        )

    @property
    def workers(self) -> int:
        """N + b, the workers that compute."""
        return self.replicas + self.backups

    def check_cluster(self, workers: int) -> None:
        """Refuses a cluster of `workers` workers that could never complete a step.

        Raises:
          ValueError: if N + b is more than `workers`.
        """
        if self.workers > workers:
            raise ValueError(
                f"replicas ({self.replicas}) + backups ({self.backups}) is more than the {workers} "
                f"worker(s) in the cluster: step 0 would wait for ever. Start "
                f"{self.workers - workers} more worker(s), or lower replicas or backups."
            )
