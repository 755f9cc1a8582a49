"""Policy of an update: number of gradients, number of backup workers, bound on staleness."""

from __future__ import annotations

import dataclasses

from tf_backup.checks import checked_int


@dataclasses.dataclass(frozen=True)
class BackupPolicy:
    """N, b and the bound on staleness, which decide the gradients that make an update.

    The staleness of a gradient is the number of updates made between the parameters that it was
    computed at and the update that uses it. With N = 1 and no bound, its mean is the number of
    workers minus one.

    Args:
      replicas: N, the number of gradients that are averaged in one update; at least 1.
      backups: b, the number of workers beyond N that nobody waits for; at least 0.
      max_staleness: the largest staleness of a gradient that is used. 0 is synchronous SGD with
        backup workers. None is no bound: asynchronous SGD with N = 1, also known as softsync
        with N > 1.
      least_replicas: the smallest number of gradients that an update may be made of; None for N.
      auto: whether the number of gradients in an update is chosen during training, between
        `least_replicas` and N, so that most gradients are used per second. Otherwise it is N, or
        fewer only while fewer than N workers are alive.
      fill: whether workers may contribute more than once to an update while fewer than N are alive,
        so that it still has N gradients.

    Raises:
      TypeError: if an argument is not an int.
      ValueError: if an argument is out of range, if `least_replicas` is below N or `fill` is given
        although `max_staleness` is not 0, or if both are given.

    Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 1 and 2
    (asynchronous), 3 and 4 (synchronous).
    """

    replicas: int
    backups: int = 0
    max_staleness: int | None = 0
    least_replicas: int | None = None
    auto: bool = False
    fill: bool = False

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("backups", 0)):
            object.__setattr__(self, name, checked_int(name, getattr(self, name), least))
        for name, least in (("max_staleness", 0), ("least_replicas", 1)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checked_int(name, getattr(self, name), least))
        if self.least > self.replicas:
            raise ValueError(
                f"least_replicas is {self.least}; it must be at most replicas ({self.replicas})."
            )
        if self.fill and self.max_staleness != 0:
            raise ValueError(
                "Only in synchronous training may a worker contribute more than once to an update "
                f'(on_shortage="fill"), but max_staleness is {self.max_staleness}. Asynchronous '
                "training with replicas=1 lacks no workers while one is alive."
            )
        if self.fill and self.least < self.replicas:
            raise ValueError(
                f"least_replicas is {self.least}, but with fill all updates have {self.replicas} "
                "gradients. Give one of the two."
            )
        if self.least < self.replicas and self.max_staleness != 0:
            raise ValueError(
                "Only synchronous updates can be made of fewer than N gradients "
                f'(on_shortage="shrink" or replicas="auto"), but max_staleness is '
                f"{self.max_staleness}. Asynchronous training with replicas=1 lacks no workers "
                "while one is alive."
            )

    @classmethod
    def asynchronous(cls, workers: int, max_staleness: int | None = None) -> BackupPolicy:
        """Return a policy that makes each gradient an update of its own, unless it is too old."""
        return cls(
            replicas=1, backups=checked_int("workers", workers) - 1, max_staleness=max_staleness
        )

    @property
    def least(self) -> int:
        """The smallest number of gradients that an update may be made of."""
        return self.replicas if self.least_replicas is None else self.least_replicas

    @property
    def least_workers(self) -> int:
        """The smallest number of living workers with which updates are made."""
        return 1 if self.fill else self.least

    @property
    def workers(self) -> int:
        """N + b, the number of workers that compute gradients."""
        return self.replicas + self.backups

    def check_cluster(self, workers: int) -> None:
        """Check that a cluster of `workers` workers has enough to complete a step.

        Raises:
          ValueError: if N + b is more than `workers`.
        """
        if self.workers > workers:
            raise ValueError(
                f"replicas ({self.replicas}) + backups ({self.backups}) is more than the {workers} "
                f"worker(s) in the cluster: step 0 would wait for ever. Start "
                f"{self.workers - workers} more worker(s), or lower replicas or backups."
            )
