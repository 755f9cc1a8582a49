"""Computations of `fit` and `evaluate` for a Keras model, in terms of tensors.

Workers run the model in a `keras.StatelessScope`, which gives its variables other values. Models
with their own `train_step` or `test_step` use `custom_step` instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.annotations import Model, Tensor
from tf_backup.keras import _internals, _tracing
from tf_backup.keras.step_logs import StepLogs, StepSums
from tf_backup.keras.variables import KerasVariables, tensors_of
from tf_backup.objective import Measurement, Objective, Results
from tf_backup.servers.tables import Lookups

log = logging.getLogger(__name__)


def keras_objective(model: Model, element_spec: Any) -> Objective:
    """Return the objective of a compiled and built model.

    Each of the N gradients is that of the mean loss over one worker's batch, including
    regularisation. Batch-norm statistics change by the mean of the N workers' changes. Dropout
    draws different random numbers for every worker and step.

    Args:
      model: the model whose loss is minimised.
      element_spec: spec of the batches.
    """
    logs = _logs(model)

    def loss(batch: Any) -> tuple[Tensor, Callable[[], Any]]:
        done = _internals.forward(model, batch, training=True)
        return done.loss, lambda: _update_metrics(model, variables, done, logs)

    def results(reports: Sequence[Tensor]) -> Any:
        return logs.results(reports) if logs else model.get_metrics_result()

    variables = KerasVariables(model, model.optimizer)
    jit_compile = bool(model.jit_compile)
    return objective_of(variables, model.optimizer, loss, results, element_spec, jit_compile)


def objective_of(
    variables: KerasVariables,
    optimizer: Any,
    loss: Callable[[Any], tuple[Tensor, Callable[[], Any]]],
    results: Callable[[Sequence[Tensor]], Any],
    element_spec: Any,
    jit_compile: bool = False,
) -> Objective:
    """Return the objective of a loss.

    Args:
      variables: variables that the loss depends on.
      optimizer: optimizer of the trainable variables, built.
      loss: function from a batch to the loss ([], floating) and to a function that is called after
        the gradients are computed and may return scalars to report.
      results: see `Objective`.
      element_spec: spec of the batches.
      jit_compile: whether workers compile the computation with XLA.
    """

    def compute(values: Sequence[Tensor], seed: Tensor, batch: Any) -> Results:
        with runtime.outside_strategy():
            return _gradients(variables, optimizer, loss, values, seed, batch)

    return variables.objective(compute, optimizer, results, element_spec, jit_compile)


def keras_measurement(model: Model, element_spec: Any) -> Measurement:
    """Return the measurement of a compiled and built model, for `evaluate`.

    Args:
      model: the model whose loss and metrics are computed.
      element_spec: spec of the batches.
    """
    variables = KerasVariables(model, None)
    logs = _logs(model)

    def compute(values: Sequence[Tensor], seed: Tensor, batch: Any) -> StepSums:
        del seed
        with runtime.outside_strategy():
            scope = variables.scope(values, seed=None)
            with scope, variables.lookup(Lookups()):
                done = _internals.forward(model, batch, training=False)
                reports = _update_metrics(model, variables, done, logs)
            warn_of_changes([v for v in variables.changing if id(v) in scope.assigned])
            sums = [scope.get_current_value(v) for v in variables.sums]
        return StepSums(sums, reports, tf.constant(1.0))

    def results(totals: StepSums) -> Any:
        variables.add(totals.sums)
        return logs.mean_results(totals) if logs else model.get_metrics_result()

    computed = variables.traced(compute, element_spec, jit_compile=False)
    return Measurement(tensors_of(variables.read), computed, results, tensors_of(variables.tables))


def _logs(model: Model) -> StepLogs | None:
    """Return empty logs if the model's own `compute_metrics` says what to log, else None.

    Without one, Keras logs `get_metrics_result()`, which the chief computes itself.
    """
    return StepLogs() if _internals.has_own(model, "compute_metrics") else None


def _update_metrics(
    model: Model, variables: KerasVariables, done: _internals.Pass, logs: StepLogs | None
) -> list[Tensor]:
    """Update a model's metrics for a batch; return the reports among its logs."""
    if logs is None:
        _internals.metrics(model, done)
        return []
    with _tracing.results_noted(model) as noted:
        returned = _internals.metrics(model, done)
    step = f"{type(model).__name__}.compute_metrics"
    return logs.trace(returned, noted, step, variables.starts)


def _gradients(
    variables: KerasVariables,
    optimizer: Any,
    loss: Callable[[Any], tuple[Tensor, Callable[[], Any]]],
    values: Sequence[Tensor],
    seed: Tensor,
    batch: Any,
) -> Results:
    """Compute the gradients, changes of state and metric sums of one batch.

    An assignment to a trainable variable is a change like any other. As in plain Keras, the
    variable's gradient is then the sum of the gradients at all values that it has had.
    """
    scope = variables.scope(values, seed)
    tables = {id(table) for table in variables.tables}

    def current(known: Sequence[Any]) -> list[Tensor | None]:
        return [None if id(v) in tables else scope.get_current_value(v) for v in known]

    def moves(known: Sequence[Any], before: Sequence[Any]) -> list[Tensor | None]:
        return [
            None if new is old else change(old, new, variable)
            for variable, old, new in zip(known, before, current(known), strict=True)
        ]

    before_changes, before_sums = current(variables.changing), current(variables.sums)
    parameters = current(variables.trainable)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        scope.tape = tape
        tape.watch([parameter for parameter in parameters if parameter is not None])
        lookups = Lookups(tape)
        with scope, variables.lookup(lookups):
            value, then = loss(batch)
            scaled = optimizer.scale_loss(value)
    trainable = list(zip(parameters, variables.trainable, strict=True))
    sources = [
        lookups.looked_up(_internals.tf_variable(variable))
        if start is None
        else [start, *scope.assigned.get(id(variable), [])]
        for start, variable in trainable
    ]
    gradients = [
        lookups.gradient(_internals.tf_variable(variable), parts) if start is None else total(parts)
        for (start, variable), parts in zip(trainable, tape.gradient(scaled, sources), strict=True)
    ]
    scope.tape = None
    with scope, variables.lookup(Lookups()):
        reports = then() or ()
    return Results(
        gradients=gradients,
        changes=moves(variables.changing, before_changes),
        sums=moves(variables.sums, before_sums),
        reports=[tf.cast(report, tf.float32) for report in reports],
    )


def total(gradients: Sequence[Any]) -> Tensor | None:
    """Return the sum of all gradients that are not None; None if there are none."""
    parts = [dense(gradient) for gradient in gradients if gradient is not None]
    return tf.add_n(parts) if parts else None


def dense(gradient: Any) -> Tensor | None:
    """Return a gradient (tensor, tf.IndexedSlices or None) as a tensor or None."""
    return None if gradient is None else tf.convert_to_tensor(gradient)


def warn_of_changes(variables: Sequence[Any]) -> None:
    """Warn about variables that the evaluation of a model assigns to."""
    if variables:
        log.warning(
            "Evaluating the model assigns to %s. On workers this changes nothing: every batch is "
            "evaluated with the values that training has left.",
            ", ".join(repr(variable.path) for variable in variables),
        )


def change(old: Tensor, new: Tensor, variable: Any) -> Tensor:
    """Return what a computation adds to a variable."""
    if old.dtype == tf.bool:
        raise TypeError(
            f"the model changes its variable {variable.path!r} of dtype bool, but changes of N "
            "workers are averaged. Let it be a number, or change it in a callback."
        )
    return tf.cast(new, old.dtype) - old
