"""Catalogue of the systems that the benchmark compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from scripts.benchmarks.spec import Spec
from tf_backup.network.free_ports import free_ports


@dataclasses.dataclass(frozen=True)
class System:
    """A system, for any number of workers and parameter servers.

    Attributes:
      name: name on the command line and in CSV files.
      summary: description in one line.
      program: module in `systems/` that trains.
      drivers: job of the processes that run the program: "chief" or "worker".
      servers: jobs of the plain server processes.
      backups: b; N is the number of the other workers. None for asynchronous systems, where every
        gradient is an update.
      only: fixed number of workers, whatever --workers says.
      spare: number of workers beyond --workers.
      slowdown: time that the last worker takes for a gradient, relative to the others.
      options: more arguments of `tf_backup.wrap`.
      monitor: whether the times of gradients are written to files.
    """

    name: str
    summary: str
    program: str
    drivers: str
    servers: tuple[str, ...] = ()
    backups: int | None = 0
    only: int | None = None
    spare: int = 0
    slowdown: float = 1.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    monitor: bool = False

    @property
    def uses_ps(self) -> bool:
        """Whether the system has parameter servers."""
        return self.program == "backup" or "ps" in self.servers

    def workers(self, workers: int) -> int:
        """Return the system's number of workers, given --workers."""
        return self.only or workers + self.spare

    def replicas(self, workers: int) -> int:
        """Return N, the number of gradients in an update, given --workers."""
        return 1 if self.backups is None else self.workers(workers) - self.backups

    def process_count(self, workers: int, ps: int) -> int:
        """Return the number of processes, including those that tf_backup starts."""
        chiefs = 1 if self.drivers == "chief" else 0
        return self.workers(workers) + chiefs + (ps if self.uses_ps else 0)

    def specs(
        self,
        model: str,
        workers: int,
        ps: int,
        intra_op: int,
        slow_s: float,
        profile: bool = False,
    ) -> list[Spec]:
        """Return the processes to start, beginning with those that measure.

        Args:
          model: name of the architecture.
          workers: value of --workers.
          ps: number of parameter servers.
          intra_op: number of threads for one operation.
          slow_s: delay of each batch of a slow worker, in seconds.
          profile: whether tf_backup records where the time of an update goes.
        """
        counts = {"chief": 1, "worker": self.workers(workers), "ps": ps}
        replicas = self.replicas(workers)
        spec = Spec(
            program=self.program,
            job=self.drivers,
            index=0,
            cluster=_addresses({job: counts[job] for job in (self.drivers, *self.servers)}),
            model=model,
            workers=counts["worker"],
            ps=ps,
            replicas=replicas,
            backups=counts["worker"] - replicas,
            asynchronous=self.backups is None,
            slow_s=slow_s,
            intra_op=intra_op,
            options=dict(self.options),
            monitor=self.monitor or (profile and self.program == "backup"),
        )
        programs = [(self.program, self.drivers), *(("plain_server", job) for job in self.servers)]
        return [
            dataclasses.replace(spec, program=program, job=job, index=index)
            for program, job in programs
            for index in range(counts[job])
        ]


def _addresses(counts: dict[str, int]) -> dict[str, list[str]]:
    """Return free loopback addresses by job."""
    ports = iter(free_ports(sum(counts.values())))
    return {
        job: [f"localhost:{next(ports)}" for _ in range(count)] for job, count in counts.items()
    }


CEILING = "one_device"
HEALTHY = "tf_backup_full_sync"
SLOW = "tf_backup_slow_worker"

ALL = {
    each.name: each
    for each in (
        System(
            CEILING,
            "a plain step in one process: the ceiling",
            program="one_device",
            drivers="worker",
            only=1,
        ),
        System(
            "keras_fit",
            "Keras' own fit in one process",
            program="keras_fit",
            drivers="worker",
            only=1,
        ),
        System(
            "tf_backup",
            "synchronous, one backup worker: N = W - 1, b = 1",
            program="backup",
            drivers="chief",
            backups=1,
        ),
        System(
            HEALTHY,
            "synchronous, all workers: N = W, b = 0",
            program="backup",
            drivers="chief",
        ),
        System(
            "tf_backup_async",
            "asynchronous: every gradient is an update",
            program="backup",
            drivers="chief",
            backups=None,
        ),
        System(
            "stock_async",
            "TensorFlow's ClusterCoordinator: a closure per gradient, asynchronous",
            program="stock_async",
            drivers="chief",
            servers=("worker", "ps"),
            backups=None,
        ),
        System(
            "sync_replicas",
            "TensorFlow 1's SyncReplicasOptimizer: N = W - 1 of W",
            program="sync_replicas",
            drivers="worker",
            servers=("ps",),
            backups=1,
        ),
        System(
            "all_reduce",
            "TensorFlow's MultiWorkerMirroredStrategy: N = W, no parameter servers",
            program="all_reduce",
            drivers="worker",
        ),
        System(
            SLOW,
            "one more worker, ten times slower than the others: N = W, b = 1",
            program="backup",
            drivers="chief",
            backups=1,
            spare=1,
            slowdown=10.0,
        ),
        System(
            "tf_backup_unchecked",
            'N = W, b = 0, without the check for NaN: on_nonfinite="keep"',
            program="backup",
            drivers="chief",
            options={"on_nonfinite": "keep"},
        ),
        System(
            "tf_backup_unrecorded",
            "N = W, b = 0, without recording: record_times=False",
            program="backup",
            drivers="chief",
            options={"record_times": False},
        ),
        System(
            "tf_backup_monitored",
            "N = W, b = 0, and StragglerMonitor writes what is recorded",
            program="backup",
            drivers="chief",
            monitor=True,
        ),
    )
}

VARIANTS = ("tf_backup_unchecked", "tf_backup_unrecorded", "tf_backup_monitored")  # Of HEALTHY.

DEFAULT = tuple(name for name in ALL if name not in (SLOW, *VARIANTS))
OURS = tuple(name for name in DEFAULT if ALL[name].program == "backup")
PEERS = tuple(name for name, system in ALL.items() if system.program != "backup")
