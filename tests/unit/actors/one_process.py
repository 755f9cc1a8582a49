"""A cluster in one process: one device as the server, and workers that are threads."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup._tf.named import Name
from tf_backup.actors import agent, coordinator
from tf_backup.actors.failures import gist, worker_failed
from tf_backup.objective import Objective, Results, traced

SPEC = tf.TensorSpec([], tf.float32)
TIMEOUT_S = 60


class Strategy:
    """A strategy that only names its cluster."""


class Cluster:
    """Stands in for a coordinator, and for the processes of its workers.

    Args:
      workers: number of workers. Worker i has the life i + 1.
      name: name of the resources.
      monkeypatch: sets the number of workers and servers that strategies have.
    """

    def __init__(self, workers: int, name: Name, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtime, "worker_count", lambda strategy: workers)
        monkeypatch.setattr(runtime, "ps_count", lambda strategy: 1)
        self.container = name.container
        self.addresses = {"worker": [f"host{worker}:80" for worker in range(workers)]}
        self.members = SimpleNamespace(
            lives=[worker + 1 for worker in range(workers)],
            newest=workers,
            living=workers,
            missing=[],
            silent=[],
            ever=[True] * workers,
        )
        self.errors: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any] | None] = []
        self.strategy = Strategy()
        self._programs: dict[tuple[int, str], Any] = {}
        self._threads: list[threading.Thread] = []
        this: Any = self
        coordinator.register(self.strategy, this)

    def announce(self, job: dict[str, Any] | None) -> None:
        """Let every worker do a job, in a thread each."""
        self.jobs.append(job)
        if job is None:
            return
        for worker, life in enumerate(self.members.lives):
            if life:
                thread = threading.Thread(target=self._work, args=(worker, life, job), daemon=True)
                self._threads.append(thread)
                thread.start()

    def join(self) -> None:
        """Wait until all workers are idle."""
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def tracing(self) -> Any:
        return contextlib.nullcontext()

    told_plainly = repeating_signals = tracing

    def check(self) -> None:
        pass

    def call(self, function: Any, meanwhile: Any) -> Any:
        meanwhile()
        return function()

    def worker_errors(self) -> list[dict[str, Any]]:
        return self.errors

    def check_workers(self) -> None:
        for error in self.errors:
            raise worker_failed(error)

    def _work(self, worker: int, life: int, job: dict[str, Any]) -> None:
        key = worker, job["program"]["attributes"]["shared_name"]
        if key not in self._programs:
            self._programs[key] = agent._Program(job["program"])
        try:
            getattr(self._programs[key], job["kind"])(worker, life, job)
        except tf.errors.OpError as error:
            report = {"worker": worker, "type": type(error).__name__, "message": gist(error)}
            self.errors.append(report)


def descent(weight: tf.Variable, seen: tf.Variable) -> Objective:
    """Return an objective whose gradient is the batch, a number; it also counts batches.

    Args:
      weight: variable that an update subtracts the mean gradient from.
      seen: variable that each contribution adds 1 to.
    """

    def compute(values: Any, seed: Any, batch: Any) -> Results:
        return Results([batch], [], [tf.constant(1.0)], [values[0]])

    def apply(gradients: Any) -> None:
        weight.assign_sub(gradients[0])

    return Objective(
        read=[weight],
        trainable=[weight],
        state=[],
        sums=[seen],
        compute=traced(compute, [weight], SPEC),
        apply=apply,
        results=lambda reports: {"weight before": reports[0], "seen": seen.read_value()},
    )
