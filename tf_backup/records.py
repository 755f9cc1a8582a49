"""What became of every gradient: the accounts that a user reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tf_backup import protocol


@dataclasses.dataclass(frozen=True)
class WorkerRecord:
    """What became of one worker's contributions (or, as a total, of everybody's).

    Counted since the optimizer was wrapped in this process; a checkpoint does not carry it.

    Attributes:
      worker: the worker's index, or None for a total.
      computed: contributions begun, less the one that may be under way just now.
      accepted: part of an update.
      late: offered to step t when N others were already in.
      stale: offered to step t when t was over, or when training had ended.
      duplicate: offered a second time; used at most once.
      lost: its worker died, or did not come home at the end.
    """

    worker: int | None
    computed: int
    accepted: int
    late: int
    stale: int
    duplicate: int
    lost: int

    def as_dict(self) -> dict[str, int]:
        """Returns the counts by name; without `worker` where this is a total."""
        counts = dataclasses.asdict(self)
        if self.worker is None:
            del counts["worker"]
        return counts

    def __add__(self, other: WorkerRecord) -> WorkerRecord:
        """Returns the sum of two records; of one worker, if both are of that worker."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "worker"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return WorkerRecord(worker=self.worker if self.worker == other.worker else None, **sums)


NOTHING = WorkerRecord(None, 0, 0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Contributions:
    """The accounts of all workers; computed = accepted + late + stale + duplicate + lost."""

    workers: tuple[WorkerRecord, ...]

    @property
    def total(self) -> WorkerRecord:
        """The sum over all workers."""
        return sum(self.workers, start=NOTHING)

    @classmethod
    def from_ledger(cls, ledger: protocol.Ledger) -> Contributions:
        """Reads the accounts off the gate's ledger (of NumPy arrays)."""
        under_way = (protocol.COMPUTING, protocol.DELIVERED)
        verdicts = ("accepted", "late", "stale", "duplicate", "lost")
        return cls(
            tuple(
                WorkerRecord(
                    worker=worker,
                    computed=int(ledger.begun[worker]) - (int(ledger.status[worker]) in under_way),
                    **{name: int(getattr(ledger, name)[worker]) for name in verdicts},
                )
                for worker in range(len(ledger.status))
            )
        )

    @classmethod
    def none(cls, workers: int) -> Contributions:
        """Returns the accounts of `workers` workers that have done nothing yet."""
        return cls(tuple(dataclasses.replace(NOTHING, worker=i) for i in range(workers)))

    def __add__(self, other: Contributions) -> Contributions:
        """Returns the sum of two accounts of the same workers."""
        return Contributions(tuple(map(_sum, zip(self.workers, other.workers, strict=True))))

    def __str__(self) -> str:
        """Returns a table, one row per worker."""
        names = [f.name for f in dataclasses.fields(WorkerRecord)]
        rows: list[Sequence[Any]] = [names]
        rows += [[getattr(record, name) for name in names] for record in self.workers]
        rows += [["all"] + [getattr(self.total, name) for name in names[1:]]]
        return "\n".join("".join(f"{cell!s:>11}" for cell in row) for row in rows)


def _sum(pair: tuple[WorkerRecord, WorkerRecord]) -> WorkerRecord:
    return pair[0] + pair[1]
