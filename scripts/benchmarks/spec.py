"""Specification of one benchmark process."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Spec:
    """Specification of one process of a system.

    Attributes:
      program: module in `systems/` that the process runs.
      job: job in the cluster: "chief", "worker" or "ps".
      index: index in the job.
      cluster: addresses (`host:port`) of the tasks by job; unused by tf_backup, whose
        `LocalCluster` chooses its own.
      model: name of the architecture.
      workers: number of workers.
      ps: number of parameter servers.
      replicas: N, the number of gradients in an update.
      backups: b, the number of workers beyond N.
      asynchronous: True to use gradients of any age.
      slow_s: delay of each batch of the last worker, in seconds.
      intra_op: number of threads for one operation.
      options: more arguments of `tf_backup.wrap`, for tf_backup only.
      monitor: whether tf_backup writes the times of gradients to files, with `StragglerMonitor`.
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
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    monitor: bool = False

    @property
    def inter_op(self) -> int:
        """Number of operations that a serving process runs at once, as in `LocalCluster`."""
        return max(4, self.workers + 2)

    @property
    def device(self) -> str:
        """TensorFlow's name of the task."""
        return f"/job:{self.job}/task:{self.index}"

    def to_json(self) -> str:
        """Return the specification as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Return the specification that `to_json` wrote."""
        return cls(**json.loads(text))
