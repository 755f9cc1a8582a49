"""What `fit` and `evaluate` compute for a Keras model, told in tensors.

Workers run the model with values in the place of its variables, in a `keras.StatelessScope`.
A model with a `train_step` or `test_step` of its own goes another way: see `keras_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_backup import _keras, _tf
from tf_backup.keras_variables import KerasVariables, tensors_of
from tf_backup.objective import Measurement, Objective, Results
from tf_backup.tables import Lookups

Tensor = Any
Model = Any  # a compiled, built keras.Model


def keras_objective(model: Model, element_spec: Any) -> Objective:
    """Returns the objective of a compiled and built model.

    Each of the N gradients is of the mean loss over one worker's batch, regularisation
    included. Batch-norm statistics move by the mean of the N workers' moves. Dropout draws a
    stream of its own for every worker and step.

    Args:
      model: whose loss is minimised.
      element_spec: of the batches.
    """

    def loss(batch: Any) -> tuple[Tensor, Callable[[], Any]]:
        done = _keras.forward(model, batch, training=True)
        return done.loss, lambda: _keras.metrics(model, done)

    def results(reports: Sequence[Tensor]) -> Any:
        del reports
        return model.get_metrics_result()

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
    """Returns the objective of a loss.

    Args:
      variables: that the loss depends on.
      optimizer: of its trainable variables, built.
      loss: from a batch to the loss ([], floating), and to a function that is called after the
        gradients were computed and may return scalars to report.
      results: see `Objective`.
      element_spec: of the batches.
      jit_compile: whether workers compile the computation with XLA.
    """

    def compute(values: Sequence[Tensor], seed: Tensor, batch: Any) -> Results:
        with _tf.outside_strategy():
            return _gradients(variables, optimizer, loss, values, seed, batch)

    return variables.objective(compute, optimizer, results, element_spec, jit_compile)


def keras_measurement(model: Model, element_spec: Any) -> Measurement:
    """Returns what `evaluate` computes for a compiled and built model.

    Args:
      model: whose loss and metrics are computed.
      element_spec: of the batches.
    """
    variables = KerasVariables(model, None)

    def compute(values: Sequence[Tensor], seed: Tensor, batch: Any) -> list[Tensor]:
        del seed
        with _tf.outside_strategy():
            scope = variables.scope(values, seed=None)
            with scope, variables.lookup(Lookups()):
                _keras.metrics(model, _keras.forward(model, batch, training=False))
            return [scope.get_current_value(v) for v in variables.sums]

    def results(sums: Sequence[Tensor]) -> Any:
        variables.add(sums)
        return model.get_metrics_result()

    computed = variables.traced(compute, element_spec, jit_compile=False)
    return Measurement(tensors_of(variables.read), computed, results, tensors_of(variables.tables))


def _gradients(
    variables: KerasVariables,
    optimizer: Any,
    loss: Callable[[Any], tuple[Tensor, Callable[[], Any]]],
    values: Sequence[Tensor],
    seed: Tensor,
    batch: Any,
) -> Results:
    """Computes gradients, and what the pass changes and adds up, on one batch."""
    scope = variables.scope(values, seed)
    tables = {id(table) for table in variables.tables}
    changing = [*variables.state, *variables.sums]

    def current(known: Sequence[Any]) -> list[Tensor | None]:
        return [None if id(v) in tables else scope.get_current_value(v) for v in known]

    before, parameters = current(changing), current(variables.trainable)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([parameter for parameter in parameters if parameter is not None])
        lookups = Lookups(tape)
        with scope, variables.lookup(lookups):
            value, then = loss(batch)
            scaled = optimizer.scale_loss(value)
    sources: list[Any] = [
        lookups.looked_up(table) if parameter is None else parameter
        for parameter, table in zip(parameters, tensors_of(variables.trainable), strict=True)
    ]
    gradients = tape.gradient(scaled, sources)
    with scope, variables.lookup(Lookups()):
        reports = then() or ()
    moves = [
        None if new is old else change(old, new, variable)
        for old, new, variable in zip(before, current(changing), changing, strict=True)
    ]
    return Results(
        gradients=[
            lookups.gradient(table, gradient) if parameter is None else dense(gradient)
            for parameter, gradient, table in zip(
                parameters, gradients, tensors_of(variables.trainable), strict=True
            )
        ],
        changes=moves[: len(variables.state)],
        sums=moves[len(variables.state) :],
        reports=[tf.cast(report, tf.float32) for report in reports],
    )


def dense(gradient: Any) -> Tensor | None:
    """Returns a gradient that may be tf.IndexedSlices, or None, as a tensor or None."""
    return None if gradient is None else tf.convert_to_tensor(gradient)


def change(old: Tensor, new: Tensor, variable: Any) -> Tensor:
    """Returns what a computation adds to a variable."""
    if old.dtype == tf.bool:
        raise TypeError(
            f"the model changes its variable {variable.path!r} of dtype bool, but changes of N "
            "workers are averaged. Let it be a number, or change it in a callback."
        )
    return tf.cast(new, old.dtype) - old
