"""What became of every gradient: the accounts that a user reads."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tf_backup.policy import BackupPolicy
from tf_backup.rules import protocol

_REPORT_TIMEOUT_S = 10.0  # For reports that are on their way.


class Report(Protocol):
    """What an update reports."""

    @property
    def step(self) -> int:
        """t, before the update; below 0 of what is no update."""

    @property
    def places(self) -> Any:
        """[N] whose gradients it is made of."""

    @property
    def staleness(self) -> Any:
        """[N] how many updates old each is."""


@dataclasses.dataclass(frozen=True)
class WorkerRecord:
    """What became of one worker's contributions (or, as a total, of everybody's).

    Counted since the optimizer was wrapped in this process; a checkpoint does not carry it.

    Attributes:
      worker: the worker's index, or None for a total.
      computed: contributions begun, less the one that may be under way just now.
      accepted: part of an update.
      late: computed at the step of the day, but so many others were in before that it would have
        been older than `max_staleness` when its turn came (synchronous: N were in).
      stale: computed at a step so long over that it is older than `max_staleness` (synchronous:
        over at all), or still to be used when training ended.
      duplicate: offered a second time; used at most once.
      lost: its worker died, or did not come home at the end.
      staleness: of the accepted ones, how many were how many updates old when they were used;
        {0: accepted} in synchronous SGD.
    """

    worker: int | None
    computed: int
    accepted: int
    late: int
    stale: int
    duplicate: int
    lost: int
    staleness: Mapping[int, int] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def staleness_mean(self) -> float:
        """How many updates old its accepted contributions were on average; 0.0 of none."""
        total = sum(age * count for age, count in self.staleness.items())
        return total / max(1, sum(self.staleness.values()))

    @property
    def staleness_max(self) -> int:
        """How many updates old the oldest of its accepted contributions was; 0 of none."""
        return max(self.staleness, default=0)

    def as_dict(self) -> dict[str, int]:
        """Returns the counts by name; without `worker` where this is a total."""
        names = _COUNTS if self.worker is None else ("worker", *_COUNTS)
        return {name: getattr(self, name) for name in names}

    def __add__(self, other: WorkerRecord) -> WorkerRecord:
        """Returns the sum of two records; of one worker, if both are of that worker."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        staleness = Counter(self.staleness) + Counter(other.staleness)
        worker = self.worker if self.worker == other.worker else None
        return WorkerRecord(worker=worker, staleness=dict(sorted(staleness.items())), **sums)


_COUNTS = ("computed", "accepted", "late", "stale", "duplicate", "lost")
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
    def from_ledger(
        cls, ledger: protocol.Ledger, staleness: Sequence[Mapping[int, int]]
    ) -> Contributions:
        """Reads the accounts off the gate's ledger (of NumPy arrays).

        Args:
          ledger: the ledger.
          staleness: which it does not hold, of each worker.
        """
        under_way = (protocol.COMPUTING, protocol.DELIVERED)
        verdicts = ("accepted", "late", "stale", "duplicate", "lost")
        return cls(
            tuple(
                WorkerRecord(
                    worker=worker,
                    computed=int(ledger.begun[worker]) - (int(ledger.status[worker]) in under_way),
                    staleness=dict(sorted(staleness[worker].items())),
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
        """Returns a table, one row per worker; with their staleness, if any is above 0."""
        rows: list[Sequence[Any]] = [["worker", *_COUNTS]]
        for record in (*self.workers, self.total):
            name = "all" if record.worker is None else record.worker
            rows.append([name, *(getattr(record, count) for count in _COUNTS)])
        if self.total.staleness_max > 0:
            rows[0] = [*rows[0], "staleness: mean", "max"]
            for index, record in enumerate((*self.workers, self.total), start=1):
                mean = f"{record.staleness_mean:.2f}"
                rows[index] = [*rows[index], mean, record.staleness_max]
        widths = [11] * (1 + len(_COUNTS)) + [18, 6]
        return "\n".join(
            "".join(f"{cell!s:>{width}}" for cell, width in zip(row, widths, strict=False))
            for row in rows
        )


class Books:
    """The accounts of one engine: its ledger's, and how old the gradients of each update were.

    The ledger counts an update when it is made. How old its gradients were is in its report, which
    was sent just before, and may still be on its way.

    Args:
      policy: N and b.
      ledger: reads the ledger, in NumPy.
    """

    def __init__(self, policy: BackupPolicy, ledger: Callable[[], protocol.Ledger]) -> None:
        self._ledger = ledger
        self._replicas = policy.replicas
        self._staleness: list[Counter[int]] = [Counter() for _ in range(policy.workers)]
        self._counted = 0
        self._noted: deque[tuple[Sequence[int], Sequence[int]]] = deque()
        self._change = threading.Condition()

    def note(self, report: Report) -> None:
        """Notes an update that has been made, or is just being made."""
        if report.step >= 0:
            with self._change:
                self._noted.append((report.places, report.staleness))
                self._change.notify_all()

    def read(self) -> Contributions:
        """Returns the accounts; any thread may ask."""
        with self._change:
            ledger = self._ledger()
            made = int(ledger.accepted.sum()) // self._replicas
            self._change.wait_for(
                lambda: self._counted + len(self._noted) >= made, _REPORT_TIMEOUT_S
            )
            while self._counted < made and self._noted:
                for place, age in zip(*self._noted.popleft(), strict=True):
                    self._staleness[int(place)][int(age)] += 1
                self._counted += 1
            return Contributions.from_ledger(ledger, self._staleness)


def _sum(pair: tuple[WorkerRecord, WorkerRecord]) -> WorkerRecord:
    return pair[0] + pair[1]
