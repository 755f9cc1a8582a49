"""How many gradients make an update, and how many workers may be late."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class BackupPolicy:
    """N and b of synchronous SGD with backup workers.

    Args:
      replicas: N, the gradients averaged in one update; at least 1.
      backups: b, the workers beyond N that nobody waits for; at least 0.

    Raises:
      TypeError: if either is not an int.
      ValueError: if either is out of range.

    Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 3 and 4.
    """

    replicas: int
    backups: int = 0

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("backups", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {value!r} ({type(value).__name__}).")
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}.")

    @classmethod
    def full_sync(cls, workers: int) -> BackupPolicy:
        """Every one of `workers` contributes to every update: b = 0."""
        return cls(replicas=workers, backups=0)

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
