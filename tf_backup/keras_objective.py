"""A compiled Keras model as an objective: its computation told in tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_backup import _keras, _tf
from tf_backup.objective import Objective, Results

Tensor = Any
Model = Any  # a compiled, built keras.Model


class KerasVariables:
    """The variables of a model in the order in which an objective has them.

    Args:
      model: a compiled and built model.
    """

    def __init__(self, model: Model) -> None:
        seeds = _keras.seed_states(model)
        self.trainable = list(model.trainable_variables)
        self.state = _without(model.non_trainable_variables, seeds)
        self.state += _loss_scales(model.optimizer)  # Workers scale their loss by them.
        self.sums = list(model.metrics_variables)
        # With the seeds that the user set, every run draws the same.
        self.seeds = [(seed, seed.numpy()) for seed in seeds]

    def check_placed(self) -> None:
        """Refuses variables that are on no parameter server.

        Raises:
          ValueError: naming the first of them.
        """
        for variable in [*self.trainable, *self.state, *self.sums]:
            if not _tf.is_on_ps(_keras.tensors_of(variable).device):
                raise ValueError(
                    f"variable {variable.path!r} is on no parameter server: it was created "
                    "outside the strategy's scope. Create the model and the optimizer, and call "
                    "compile, inside `with strategy.scope():`."
                )

    def scope(self, values: Sequence[Tensor], seed: Tensor | None) -> Any:
        """Returns a scope in which the model's variables have the given values.

        Args:
          values: of `trainable` and `state`. Sums are zero, so that they hold what is added.
          seed: [2] int64, which every seed generator mixes with its own; None for no mixing.
        """
        mapping = list(zip([*self.trainable, *self.state], values, strict=True))
        mapping += [(v, tf.zeros(v.shape, v.dtype)) for v in self.sums]
        for variable, start in self.seeds:
            mapping.append((variable, _mixed(start, seed, variable.dtype)))
        return _keras.stateless_scope(mapping)

    def read(self) -> list[Any]:
        """Returns the `tf.Variable`s whose values `scope` wants."""
        return [_keras.tensors_of(v) for v in [*self.trainable, *self.state]]


def keras_objective(model: Model) -> Objective:
    """Returns the objective of a compiled and built model.

    Each of the N gradients is of the mean loss over one worker's batch, regularisation
    included. Batch-norm statistics move by the mean of the N workers' moves. Dropout draws a
    stream of its own for every worker and step.
    """
    variables = KerasVariables(model)

    def compute(values: Sequence[Tensor], seed: Tensor, batch: Any) -> Results:
        with _tf.outside_strategy():
            return _gradients(model, variables, values, seed, batch)

    def apply(gradients: Sequence[Tensor | None]) -> None:
        with _tf.outside_strategy():
            model.optimizer.apply(gradients, variables.trainable)

    return Objective(
        trainable=[_keras.tensors_of(v) for v in variables.trainable],
        state=[_keras.tensors_of(v) for v in variables.state],
        sums=[_keras.tensors_of(v) for v in variables.sums],
        compute=compute,
        apply=apply,
        results=model.get_metrics_result,
        jit_compile=bool(model.jit_compile),
    )


def keras_sums(
    model: Model, variables: KerasVariables, values: Sequence[Tensor], batch: Any
) -> list[Tensor]:
    """Returns what evaluating a batch adds to each of the model's sums."""
    with _tf.outside_strategy():
        scope = variables.scope(values, seed=None)
        with scope:
            _keras.metrics(model, _keras.forward(model, batch, training=False))
        return [scope.get_current_value(v) for v in variables.sums]


def _gradients(
    model: Model, variables: KerasVariables, values: Sequence[Tensor], seed: Tensor, batch: Any
) -> Results:
    """Computes gradients, and what the pass changes and adds up, on one batch."""
    scope = variables.scope(values, seed)
    before = [scope.get_current_value(v) for v in [*variables.state, *variables.sums]]
    parameters = [scope.get_current_value(v) for v in variables.trainable]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parameters)
        with scope:
            done = _keras.forward(model, batch, training=True)
            loss = model.optimizer.scale_loss(done.loss)
    gradients = tape.gradient(loss, parameters)
    with scope:
        _keras.metrics(model, done)
    after = [scope.get_current_value(v) for v in [*variables.state, *variables.sums]]
    moves = [
        None if new is old else _move(old, new, variable)
        for old, new, variable in zip(
            before, after, [*variables.state, *variables.sums], strict=True
        )
    ]
    return Results(
        gradients=[None if g is None else tf.convert_to_tensor(g) for g in gradients],
        changes=moves[: len(variables.state)],
        sums=moves[len(variables.state) :],
    )


def _move(old: Tensor, new: Tensor, variable: Any) -> Tensor:
    """Returns what the pass adds to a variable."""
    if old.dtype == tf.bool:
        raise TypeError(
            f"the model changes its variable {variable.path!r} of dtype bool, but changes of N "
            "workers are averaged. Let it be a number, or change it in a callback."
        )
    return tf.cast(new, old.dtype) - old


def _mixed(start: Any, seed: Tensor | None, dtype: str) -> Tensor:
    """Returns a seed generator's state for one worker and step ([2], of `dtype`)."""
    if seed is None:
        return tf.cast(start, dtype)
    state = tf.cast(start, tf.int64)
    for part in tf.unstack(seed, 2):
        state = tf.random.experimental.stateless_fold_in(state, part)
    # Keras counts on from here; keep it small, and the same in every integer dtype.
    return tf.cast(tf.bitwise.bitwise_and(state, 0x3FFFFFFF), dtype)


def _loss_scales(optimizer: Any) -> list[Any]:
    """Returns the scale of a LossScaleOptimizer, around the wrapped optimizer or inside it."""
    scales = []
    while optimizer is not None:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            scales.append(optimizer.dynamic_scale)
        optimizer = vars(optimizer).get("inner_optimizer")
    return scales


def _without(variables: Sequence[Any], excluded: Sequence[Any]) -> list[Any]:
    ids = {id(variable) for variable in excluded}
    return [variable for variable in variables if id(variable) not in ids]
