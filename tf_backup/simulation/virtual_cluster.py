"""Virtual cluster: real gradients of a real model, computed one after another in this process.

The gate's rules decide on a virtual clock which gradients make which updates. A gradient is
computed at the parameters of the step that its worker has begun, on the worker's own batches, and
an update applies the mean of N, as the engine does. So the parameters are those of a cluster whose
workers were as fast as the durations say.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import datasets
from tf_backup.annotations import Tensor, Variable
from tf_backup.checks import checked_choice, checked_int, checked_number
from tf_backup.errors import NonFiniteGradients
from tf_backup.objective import Objective, Results, Totals
from tf_backup.policy import BackupPolicy
from tf_backup.rules.protocol import Ledger
from tf_backup.simulation.delays import Durations
from tf_backup.simulation.virtual_gate import Made, VirtualGate
from tf_backup.timeline.schema import Timeline
from tf_backup.worker_data import WorkerData

ON_NONFINITE = ("drop", "raise", "keep")
_MOST_NONFINITE = 10  # Gradients of each worker between two updates, on average.


@dataclasses.dataclass(frozen=True)
class VirtualUpdate:
    """An update of a virtual cluster.

    Attributes:
      step: t, the number of updates before it.
      time: when it was released, in virtual seconds.
      workers: the N workers whose gradients it used, in the order in which these arrived.
      staleness: the staleness of each.
      logs: loss and metrics over the N batches.
    """

    step: int
    time: float
    workers: tuple[int, ...]
    staleness: tuple[int, ...]
    logs: dict[str, float]


class VirtualCluster:
    """N + b workers that train a model on a virtual clock.

    Only gradients that are used are computed. So what a late or stale gradient would have been is
    unknown: if it had NaN or Inf, a real cluster would count it as nonfinite.

    Versions of the parameters are kept as long as a worker computes a gradient for them that may
    still be used: one in synchronous training, and up to N + b with a bound on staleness or none.

    Args:
      objective: what is trained, on variables of this process.
      policy: N, b and the bound on staleness.
      durations: how long workers compute a gradient; see `delays`.
      data: the workers' batches.
      update_s: time from an update's start to its release, in virtual seconds.
      seed: seed of the random numbers that `durations` draws.
      step: number of updates made before.
      on_nonfinite: what to do with a gradient that has NaN or Inf: "drop", "raise" or "keep".
      model: name of the model, for the timeline.

    Attributes:
      history: all updates so far.
    """

    def __init__(
        self,
        objective: Objective,
        policy: BackupPolicy,
        durations: Durations,
        data: WorkerData,
        *,
        update_s: float = 0.0,
        seed: int = 0,
        step: int = 0,
        on_nonfinite: str = "drop",
        model: str = "",
    ) -> None:
        checked_choice("on_nonfinite", on_nonfinite, ON_NONFINITE)
        update_s = checked_number("update_s", update_s)
        self.history: list[VirtualUpdate] = []
        self._gate = VirtualGate(durations, policy, update_s, seed, step)
        self._model = model
        self._workers = _Workers(objective, policy, data, step, on_nonfinite)

    @property
    def ledger(self) -> Ledger:
        """State of the gate, with the counts of each worker's gradients."""
        return self._gate.ledger

    @property
    def durations(self) -> Durations:
        """How long workers compute; may be replaced between two calls of `run`."""
        return self._gate.durations

    @durations.setter
    def durations(self, durations: Durations) -> None:
        self._gate.durations = durations

    def run(
        self, updates: int, callback: Callable[[VirtualUpdate], Any] | None = None
    ) -> list[VirtualUpdate]:
        """Make some more updates. Workers go on where they were at the end of the last call.

        Args:
          updates: how many.
          callback: called after each update.

        Returns:
          These updates.

        Raises:
          NonFiniteGradients: if no update can be made since gradients have NaN or Inf; with
            "raise", at the first one.
          ValueError: if the data of a worker ends.
        """
        first = len(self.history)
        for _ in range(checked_int("updates", updates)):
            made = self._gate.update(self._workers)
            logs = self._workers.apply(made, self._gate)
            update = VirtualUpdate(made.step, made.time, made.workers, made.staleness, logs)
            self.history.append(update)
            if callback is not None:
                callback(update)
        return self.history[first:]

    def timeline(self) -> Timeline:
        """Return what became of each gradient, as of a real training."""
        return self._gate.timeline(self._model)


class _Workers:
    """The workers' batches, parameters and gradients, and the updates made of them."""

    def __init__(
        self,
        objective: Objective,
        policy: BackupPolicy,
        data: WorkerData,
        step: int,
        on_nonfinite: str,
    ) -> None:
        self._objective = objective
        self._policy = policy
        self._on_nonfinite = on_nonfinite
        self._batches = [iter(dataset) for dataset in _datasets(data)]
        self._delivered: dict[int, Results] = {}  # By worker.
        self._dropped = 0  # Nonfinite gradients since the last update.
        # What the sums are before an update adds to them, so that logs are of its batches alone.
        self._zeros = [tf.identity(variable) for variable in objective.sums]
        self._versions = {step: self._parameters()}
        signature = objective.compute.structured_input_signature[0]
        self._compute = _traced(self._contribution, *signature)
        specs = _each(
            lambda t: tf.TensorSpec(t.shape, t.dtype), self._compute.structured_outputs[0]
        )
        self._add = _traced(self._sum, specs, specs)
        self._apply = _traced(self._apply_mean, specs)

    def compute(self, worker: int, step: int) -> bool:
        """Compute a worker's gradient at theta(step); return whether it is finite."""
        seed = tf.constant([worker + 1, step], tf.int64)  # That of the engine's workers.
        results, finite = self._compute(self._versions[step], seed, self._next(worker))
        if not finite:
            self._drop(worker, step)
            return False
        self._delivered[worker] = results
        return True

    def skip(self, worker: int) -> None:
        """Leave out a gradient; its batch is lost."""
        self._next(worker)

    def apply(self, made: Made, gate: VirtualGate) -> dict[str, float]:
        """Make an update, and return its logs."""
        self._dropped = 0
        results = [self._delivered.pop(worker) for worker in made.workers]
        logs = self._apply(functools.reduce(self._add, results))
        bound = self._policy.max_staleness
        oldest = 0 if bound is None else gate.step - bound
        useful = {step for step in gate.steps_under_way if oldest <= step < gate.step}
        self._versions = {step: self._versions[step] for step in useful}
        self._versions[gate.step] = self._parameters()
        return {name: float(value) for name, value in logs.items()}

    def _parameters(self) -> list[Tensor]:
        return [tf.identity(variable) for variable in self._objective.read]

    def _next(self, worker: int) -> Any:
        try:
            return next(self._batches[worker])
        except StopIteration:
            raise ValueError(
                f"the data of worker {worker} has ended. Virtual workers have no epochs: let the "
                "data set, or those that a function makes, .repeat()."
            ) from None

    def _drop(self, worker: int, step: int) -> None:
        """Count a gradient that is not finite.

        Raises:
          NonFiniteGradients: if it must not be, or if there were too many.
        """
        self._dropped += 1
        said = f"the gradient of worker {worker} at step {step} has NaN or Inf"
        if self._on_nonfinite == "raise":
            raise NonFiniteGradients(f'{said} (on_nonfinite="raise").')
        if self._dropped > _MOST_NONFINITE * self._policy.workers:
            raise NonFiniteGradients(
                f"{said}, as {self._dropped - 1} others since the last update, which leaves fewer "
                "than N. Lower the learning rate, clip gradients, or look for bad samples."
            )

    def _contribution(self, values: Any, seed: Tensor, batch: Any) -> tuple[Results, Tensor]:
        """Return a worker's results, and whether the gradient has no NaN or Inf ([] bool)."""
        results = self._objective.compute(values, seed, batch)
        finite = _finite([*results.gradients, *results.changes])
        if self._on_nonfinite == "keep":
            finite = tf.constant(True)
        return _each(_wide, results), finite

    def _sum(self, one: Results, other: Results) -> Results:
        return _each(tf.add, one, other)

    def _apply_mean(self, sums: Results) -> dict[str, Tensor]:
        """Update the variables with N results, whose sums are given."""
        objective = self._objective
        for variable, zero, total in zip(objective.sums, self._zeros, sums.sums, strict=True):
            if total is not None:
                variable.assign(zero)
        totals = Totals(
            gradients=self._means(sums.gradients, objective.trainable),
            changes=self._means(sums.changes, objective.state),
            sums=[
                None if total is None else tf.cast(total, variable.dtype)
                for total, variable in zip(sums.sums, objective.sums, strict=True)
            ],
            reports=[total / self._policy.replicas for total in sums.reports],
        )
        logs: dict[str, Tensor] = objective.update(totals)
        return logs

    def _means(self, sums: Sequence[Any], variables: Sequence[Variable]) -> list[Tensor | None]:
        return [
            None if total is None else _mean(total, self._policy.replicas, variable.dtype)
            for total, variable in zip(sums, variables, strict=True)
        ]


def _datasets(data: WorkerData) -> list[Any]:
    """Return each worker's data set, as `worker_data.open_pipeline` does in its process."""
    pipelines = data.start()
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1  # There may be a thousand of them.
    options.autotune.enabled = False
    found = []
    for worker in range(data.workers):
        graph = pipelines.graphs[worker % len(pipelines.graphs)]
        dataset = datasets.dataset_from_graph(tf.constant(graph), data.element_spec)
        if pipelines.shards > 1:
            dataset = dataset.shard(pipelines.shards, worker)
        if pipelines.repeat:
            dataset = dataset.repeat()
        found.append(dataset.with_options(options))
    return found


def _traced(function: Callable[..., Any], *specs: Any) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def _each(function: Callable[..., Any], *results: Results) -> Results:
    """Apply a function to what is not None in results of the same computation."""
    return Results(
        *[
            [None if parts[0] is None else function(*parts) for parts in zip(*fields, strict=True)]
            for fields in zip(*results, strict=True)
        ]
    )


def _finite(parts: Sequence[Tensor | None]) -> Tensor:
    """Return whether there is no NaN or Inf ([] bool)."""
    floats = [part for part in parts if part is not None and part.dtype.is_floating]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(part)) for part in floats])


def _wide(part: Tensor) -> Tensor:
    """Return numbers of 16 bits as 32, which do not overflow when N are added."""
    return tf.cast(part, tf.float32) if part.dtype in (tf.float16, tf.bfloat16) else part


def _mean(total: Tensor, replicas: int, dtype: tf.DType) -> Tensor:
    mean = total // replicas if total.dtype.is_integer else total / replicas
    return tf.cast(mean, dtype)
