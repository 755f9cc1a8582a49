"""Training and evaluation steps of models with their own `train_step` or `test_step`.

While such a step is traced, every variable of the model is replaced by a local variable of the
worker, which starts at its value after t updates, and the optimizer's `apply` records the gradients
instead of updating. This costs more than Keras' own steps: each worker holds a copy of the
parameters, and embedding tables are sent whole.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup.annotations import Model, Tensor
from tf_backup.keras import _internals, _tracing
from tf_backup.keras.model_objective import change, dense, warn_of_changes
from tf_backup.keras.step_logs import StepLogs, StepSums
from tf_backup.keras.variables import KerasVariables, mixed, tensors_of
from tf_backup.objective import Measurement, Objective, Results

log = logging.getLogger(__name__)


_AFTER_APPLY = (
    "{model}.train_step uses the variable {variable!r} after it has applied gradients. Workers do "
    "not update: the update is made once, when N gradients are there. Let the step end with "
    "apply, or do what follows it in a callback (on_train_batch_end); for averaged weights, give "
    "the optimizer use_ema=True."
)
_APPLY_TWICE = (
    "{model}.train_step applies gradients more than once, but one step is one update of N "
    "gradients: what comes second would not see the first's update. Add the losses and apply "
    "once, or train on one device."
)
_NOT_APPLIED = (
    "{model}.train_step applies no gradients with the optimizer that the model was compiled with: "
    "call self.optimizer.apply_gradients or self.optimizer.apply in it, once. Other optimizers "
    "cannot be used."
)


def step_objective(model: Model, element_spec: Any) -> Objective:
    """Return the objective of a model with its own `train_step`.

    The gradients that the step applies are averaged over N workers and then applied once. In the
    logs that it returns, results of the model's metrics are exact over the accepted batches, and
    other scalars are the mean of N; see `StepLogs`.

    Args:
      model: compiled and built.
      element_spec: spec of the batches.

    Raises:
      ValueError: if the step cannot run on N workers; the message gives the reason.
    """
    variables = KerasVariables(model, model.optimizer)
    variables.tables = []
    variables.settings = _internals.settings(model.optimizer)
    logs = StepLogs()

    def compute(values: Sequence[Tensor], seed: Tensor, batch: Any) -> Results:
        with runtime.outside_strategy(), _local(variables, values, seed) as local:
            with _recorded(model, variables, local) as applied:
                reports = _run(model, "train_step", batch, logs)
            if not applied.gradients:
                raise ValueError(_NOT_APPLIED.format(model=type(model).__name__))
            changes = {id(v): _moved(local[id(v)], v) for v in variables.state} | applied.changes
            sums = [_moved(local[id(v)], v) for v in variables.sums]
        return Results(
            gradients=[applied.gradients.get(id(v)) for v in variables.trainable],
            changes=[changes.get(id(v)) for v in variables.changing],
            sums=sums,
            reports=reports,
        )

    if model.jit_compile:
        log.warning(
            "%s has a train_step of its own, which is not compiled with XLA.", type(model).__name__
        )
    return variables.objective(compute, model.optimizer, logs.results, element_spec)


def step_measurement(model: Model, element_spec: Any) -> Measurement:
    """Return the measurement of a model with its own `test_step`, for `evaluate`.

    In the logs that the step returns, results of the model's metrics are exact over all batches,
    and other scalars are the mean over batches; see `StepLogs`.

    Args:
      model: compiled and built.
      element_spec: spec of the batches.
    """
    variables = KerasVariables(model, None)
    variables.tables = []
    logs = StepLogs()

    def compute(values: Sequence[Tensor], seed: Tensor, batch: Any) -> StepSums:
        del seed
        with runtime.outside_strategy(), _local(variables, values, None) as local:
            reports = _run(model, "test_step", batch, logs)
            warn_of_changes([v for v in variables.changing if local[id(v)].variable.changed])
            sums = [local[id(v)].variable.read_value() for v in variables.sums]
        return StepSums(sums, reports, tf.constant(1.0))

    def results(totals: StepSums) -> Any:
        variables.add(totals.sums)
        return logs.mean_results(totals)

    computed = variables.traced(compute, element_spec, jit_compile=False)
    return Measurement(tensors_of(variables.read), computed, results, tensors_of(variables.tables))


class _Local(NamedTuple):
    """A local variable of a worker, and its initial value."""

    variable: graphs.LocalVariable
    start: Tensor


@contextlib.contextmanager
def _local(
    variables: KerasVariables, values: Sequence[Tensor], seed: Tensor | None
) -> Iterator[dict[int, _Local]]:
    """Replace the model's variables with local ones; yield these by the ids of the model's."""
    starts = list(zip(variables.read, values, strict=True))
    starts += [(v, tf.zeros(v.shape, v.dtype)) for v in variables.sums]
    starts += [(v, mixed(start, seed, v.dtype)) for v, start in variables.seeds]
    local = {
        id(v): _Local(graphs.LocalVariable(start, v.trainable, v.path), start)
        for v, start in starts
    }
    variables.kept.extend(each.variable for each in local.values())
    replacements = [(v, local[id(v)].variable) for v, _ in starts]
    with _tracing.replaced(replacements):
        yield local


class _Applied(NamedTuple):
    """Values that a step passes to the optimizer, by the ids of trainable variables."""

    gradients: dict[int, Tensor | None]
    changes: dict[int, Tensor | None]  # Changes that the step made before `apply`.


@contextlib.contextmanager
def _recorded(
    model: Model, variables: KerasVariables, local: dict[int, _Local]
) -> Iterator[_Applied]:
    """Make the model's optimizer record gradients instead of applying them; yield them."""
    applied = _Applied({}, {})
    gradients = applied.gradients
    name = type(model).__name__

    def apply(grads: Sequence[Any], trainable_variables: Any = None) -> None:
        if gradients:
            raise ValueError(_APPLY_TWICE.format(model=name))
        targets = list(trainable_variables or variables.trainable)
        known = {id(v) for v in variables.trainable}
        for variable, gradient in zip(targets, grads, strict=True):
            if id(variable) not in known:
                raise ValueError(
                    f"{name}.train_step applies a gradient to {variable.path!r}, which is none of "
                    "the model's trainable variables."
                )
            if id(variable) in gradients:
                raise ValueError(f"{name}.train_step applies two gradients to {variable.path!r}.")
            gradients[id(variable)] = dense(gradient)
        for variable in variables.trainable:
            applied.changes[id(variable)] = _moved(local[id(variable)], variable)
            local[id(variable)].variable.refuse(
                ValueError(_AFTER_APPLY.format(model=name, variable=variable.path))
            )

    other = ValueError(_NOT_APPLIED.format(model=name))
    with _tracing.applying(model.optimizer, apply, other):
        yield applied


def _run(model: Model, step: str, batch: Any, logs: StepLogs) -> list[Tensor]:
    """Run a step of the model; return the reports among what it returned."""
    with _tracing.results_noted(model) as noted:
        returned = getattr(model, step)(batch)
    return logs.trace(returned, noted, f"{type(model).__name__}.{step}")


def _moved(local: _Local, variable: Any) -> Tensor | None:
    """Return the change that the step made to a variable; None if it made none."""
    if not local.variable.changed:
        return None
    return change(local.start, local.variable.read_value(), variable)
