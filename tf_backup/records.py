"""Counts of what became of every gradient, for users to read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tf_backup.rules import protocol


@dataclasses.dataclass(frozen=True)
class WorkerRecord:
    """Counts of what became of one worker's contributions, or, as a total, of all workers'.

    Counts start when the optimizer is wrapped in this process. Checkpoints do not contain them.

    Attributes:
      worker: index of the worker, or None for a total.
      computed: contributions started, except one that is still in progress or waits to be used.
      accepted: used in an update.
      late: computed for the current step, but N others came first. With `max_staleness` above 0:
        so many came first that it would have been older than `max_staleness` when used.
      stale: offered when its step was over (with `max_staleness` above 0: too many updates
        ago), or not used when its run ended.
      duplicate: offered a second time; used at most once.
      lost: its worker died, was silent for too long, or had not finished when training ended.
      nonfinite: dropped because its gradient had NaN or Inf.
      staleness: number of accepted contributions by staleness; {0: accepted} in synchronous SGD.
    """

    worker: int | None
    computed: int
    accepted: int
    late: int
    stale: int
    duplicate: int
    lost: int
    staleness: Mapping[int, int] = dataclasses.field(default_factory=dict, hash=False)
    nonfinite: int = 0

    @property
    def staleness_mean(self) -> float:
        """Mean staleness of the accepted contributions; 0.0 if there are none."""
        total = sum(age * count for age, count in self.staleness.items())
        return total / max(1, sum(self.staleness.values()))

    @property
    def staleness_max(self) -> int:
        """Largest staleness of the accepted contributions; 0 if there are none."""
        return max(self.staleness, default=0)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, with `worker` unless this is a total."""
        names = _COUNTS if self.worker is None else ("worker", *_COUNTS)
        return {name: getattr(self, name) for name in names}

    def __add__(self, other: WorkerRecord) -> WorkerRecord:
        """Return the sum of two records; a total unless both are of the same worker."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        staleness = Counter(self.staleness) + Counter(other.staleness)
        worker = self.worker if self.worker == other.worker else None
        return WorkerRecord(worker=worker, staleness=dict(sorted(staleness.items())), **sums)


_COUNTS = ("computed", "accepted", "late", "stale", "duplicate", "lost", "nonfinite")
NOTHING = WorkerRecord(None, 0, 0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Contributions:
    """Counts of all workers.

    computed = accepted + late + stale + duplicate + lost + nonfinite
    """

    workers: tuple[WorkerRecord, ...]

    @property
    def total(self) -> WorkerRecord:
        """The sum over all workers."""
        return sum(self.workers, start=NOTHING)

    @classmethod
    def from_ledger(
        cls, ledger: protocol.Ledger, staleness: Sequence[Mapping[int, int]]
    ) -> Contributions:
        """Return the counts in the gate's ledger.

        Args:
          ledger: the ledger, in NumPy.
          staleness: counts by staleness for each worker, which the ledger does not hold.
        """
        verdicts = _COUNTS[1:]
        computed = ledger.begun - (ledger.status == protocol.COMPUTING) - ledger.queued
        return cls(
            tuple(
                WorkerRecord(
                    worker=worker,
                    computed=int(computed[worker]),
                    staleness=dict(sorted(staleness[worker].items())),
                    **{name: int(getattr(ledger, name)[worker]) for name in verdicts},
                )
                for worker in range(len(ledger.status))
            )
        )

    @classmethod
    def none(cls, workers: int) -> Contributions:
        """Return the counts of `workers` workers that have done nothing yet."""
        return cls(tuple(dataclasses.replace(NOTHING, worker=i) for i in range(workers)))

    def __add__(self, other: Contributions) -> Contributions:
        """Return the sum of two counts of the same workers."""
        return Contributions(tuple(map(_sum, zip(self.workers, other.workers, strict=True))))

    def __str__(self) -> str:
        """Return a table with one row per worker; nonfinite and staleness only if above 0."""
        counts = _COUNTS if self.total.nonfinite else _COUNTS[:-1]
        rows: list[Sequence[Any]] = [["worker", *counts]]
        for record in (*self.workers, self.total):
            name = "all" if record.worker is None else record.worker
            rows.append([name, *(getattr(record, count) for count in counts)])
        if self.total.staleness_max > 0:
            rows[0] = [*rows[0], "staleness: mean", "max"]
            for index, record in enumerate((*self.workers, self.total), start=1):
                mean = f"{record.staleness_mean:.2f}"
                rows[index] = [*rows[index], mean, record.staleness_max]
        widths = [11] * (1 + len(counts)) + [18, 6]
        return "\n".join(
            "".join(f"{cell!s:>{width}}" for cell, width in zip(row, widths, strict=False))
            for row in rows
        )


def _sum(pair: tuple[WorkerRecord, WorkerRecord]) -> WorkerRecord:
    return pair[0] + pair[1]
