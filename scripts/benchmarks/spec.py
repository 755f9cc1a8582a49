"""What a process of the benchmark is to be, as its parent tells it."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Spec:
    """One process of one system.

    Attributes:
      program: module in `systems/` that it runs.
      job: its job in the cluster: chief, worker or ps.
      index: its index in the job.
      cluster: addresses (`host:port`) of the cluster's tasks, by job; tf_backup finds its own.
      model: name of the architecture.
      workers: number of workers.
      ps: number of parameter servers.
      replicas: N, gradients in an update.
      backups: b, workers beyond N.
      asynchronous: whether gradients may be as old as they like.
      slow_s: how much later each batch of the last worker comes, in seconds.
      intra_op: threads that one operation may use.
    """

    program: str
    job: str
    index: int
    cluster: dict[str, list[str]]
    model: str
    workers: int
    ps: int
    replicas: int
    backups: int
    asynchronous: bool = False
    slow_s: float = 0.0
    intra_op: int = 1

    @property
    def inter_op(self) -> int:
        """Operations that a process that serves others may run at once: `LocalCluster`'s rule."""
        return max(4, self.workers + 2)

    @property
    def device(self) -> str:
        """The task as TensorFlow names it."""
        return f"/job:{self.job}/task:{self.index}"

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Return what `to_json` wrote."""
        return cls(**json.loads(text))
