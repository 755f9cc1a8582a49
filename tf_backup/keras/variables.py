"""Variables of a Keras model, in the order of an objective."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.annotations import Model, Tensor
from tf_backup.keras import _internals, _tracing
from tf_backup.objective import Objective, traced
from tf_backup.servers.tables import Lookups

log = logging.getLogger(__name__)


_LARGE_TABLE = 2**24  # Elements; reading such a table whole at every step logs a warning.


class KerasVariables:
    """The variables of a model, and their values while a worker computes.

    Args:
      model: a built model.
      optimizer: the model's optimizer, built; None to evaluate without one.
    """

    def __init__(self, model: Model, optimizer: Any) -> None:
        seeds = _internals.seed_states(model)
        self.trainable = list(model.trainable_variables)
        self.state = _without(model.non_trainable_variables, seeds)
        self.state += _loss_scales(optimizer)  # Workers scale the loss by them.
        self.sums = _internals.metric_variables(model)
        # Initial states: seeds set by the user give the same numbers in every training run.
        self.seeds = [(seed, seed.numpy()) for seed in seeds]
        known = {id(variable) for variable in [*self.trainable, *self.state]}
        self.tables = [
            table
            for table in _internals.embedding_tables(model)
            if id(table) in known and runtime.is_on_ps(_internals.tf_variable(table).device)
        ]
        self.settings: list[Any] = []  # Of the optimizer; a computation may read them.
        self.kept: list[Any] = []  # Objects that must outlive the traced computation.
        self.starts: list[Tensor] = []  # Initial values of the sums in the last scope.
        self._whole: list[Any] = []  # Tables that the last trace read whole.

    @property
    def read(self) -> list[Any]:
        """Variables whose values workers get: all except tables and sums."""
        return _without([*self.trainable, *self.state, *self.settings], self.tables)

    @property
    def changing(self) -> list[Any]:
        """Variables that a computation may assign to, apart from the sums.

        They include trainable ones: some layers normalise or project a weight in `call`.
        """
        return [*self.state, *self.trainable]

    def check_placed(self) -> None:
        """Check that all variables are on parameter servers.

        Raises:
          ValueError: if one is not; the message names the first of them.
        """
        for variable in [*self.trainable, *self.state, *self.sums]:
            if not runtime.is_on_ps(_internals.tf_variable(variable).device):
                raise ValueError(
                    f"variable {variable.path!r} is on no parameter server: "
                    f"{variable.path.split('/')[0]!r} was created outside the strategy's scope. "
                    "Create it inside `with strategy.scope():`: the model and the optimizer, and "
                    "also metrics, augmentation layers and what `adapt` is called on; and call "
                    "compile there."
                )

    def scope(self, values: Sequence[Tensor], seed: Tensor | None) -> _internals.ValuesScope:
        """Return a scope in which the model's variables have the given values.

        Args:
          values: values of `read`. Sums start at zero, so that they hold what is added.
          seed: [2] int64, mixed into the state of every seed generator; None for no mixing.
        """
        mapping = list(zip(self.read, values, strict=True))
        self.starts = [tf.zeros(v.shape, v.dtype) for v in self.sums]
        mapping += zip(self.sums, self.starts, strict=True)
        mapping += [(v, mixed(start, seed, v.dtype)) for v, start in self.seeds]
        scope = _internals.ValuesScope(mapping, self.tables)
        self._whole = scope.whole
        return scope

    def add(self, sums: Sequence[Tensor]) -> None:
        """Add to the model's sums; to be called eagerly."""
        for variable, more in zip(self.sums, sums, strict=True):
            variable.assign(variable + more)

    def lookup(self, lookups: Lookups) -> Any:
        """Return a scope in which embedding layers look up the rows of tables."""
        tables = {id(table): _internals.tf_variable(table) for table in self.tables}

        def rows(variable: Any, ids: Tensor) -> Tensor | None:
            if id(variable) not in tables or not lookups.possible:
                return None
            return lookups.rows(tables[id(variable)], ids)

        return _tracing.looking_up(rows)

    def objective(
        self,
        compute: Callable[..., Any],
        optimizer: Any,
        results: Callable[[Sequence[Tensor]], Any],
        element_spec: Any,
        jit_compile: bool = False,
    ) -> Objective:
        """Return the objective of a computation on these variables.

        Args:
          compute: see `Objective`; it is traced here.
          optimizer: optimizer that applies the mean gradients, built.
          results: see `Objective`.
          element_spec: spec of the batches.
          jit_compile: whether workers compile the computation with XLA.

        Raises:
          ValueError: if the computation uses objects that only the chief's process has.
        """

        def apply(gradients: Sequence[Any]) -> None:
            with runtime.outside_strategy():
                optimizer.apply(gradients, self.trainable)

        computed = self.traced(compute, element_spec, jit_compile)  # First: finds the tables.
        return Objective(
            read=tensors_of(self.read),
            trainable=tensors_of(self.trainable),
            state=tensors_of(self.changing),
            sums=tensors_of(self.sums),
            compute=computed,
            apply=apply,
            results=results,
            tables=tensors_of(self.tables),
        )

    def traced(self, compute: Callable[..., Any], element_spec: Any, jit_compile: bool) -> Any:
        """Return a worker's computation as a concrete function; see `objective.traced`.

        A table that the computation reads whole (for a regulariser, for example) is treated as an
        ordinary variable. So are all tables with XLA, which cannot look up rows elsewhere.
        """
        if jit_compile:
            self.tables = []
        while True:
            self._whole = []
            concrete = traced(
                compute,
                tensors_of(self.read),
                element_spec,
                tables=tensors_of(self.tables),
                jit_compile=jit_compile,
            )
            if not self._whole:
                return concrete
            for table in self._whole:
                if math.prod(table.shape) >= _LARGE_TABLE:
                    log.warning(
                        "Embedding %s (%s) is not only looked up but read whole, by a regulariser "
                        "or another layer: every worker reads and sends all of it at every step.",
                        table.path,
                        " x ".join(map(str, table.shape)),
                    )
            self.tables = _without(self.tables, self._whole)


def tensors_of(variables: Sequence[Any]) -> list[Any]:
    """Return the `tf.Variable`s of Keras variables."""
    return [_internals.tf_variable(variable) for variable in variables]


def mixed(start: Any, seed: Tensor | None, dtype: str) -> Tensor:
    """Return the state of a seed generator for one worker and step, [2] of `dtype`."""
    if seed is None:
        return tf.cast(start, dtype)
    state = tf.cast(start, tf.int64)
    for part in tf.unstack(seed, 2):
        state = tf.random.experimental.stateless_fold_in(state, part)
    # Keras increments the state; keep it small, and the same in every integer dtype.
    return tf.cast(tf.bitwise.bitwise_and(state, 0x3FFFFFFF), dtype)


def _loss_scales(optimizer: Any) -> list[Any]:
    """Return the scales of LossScaleOptimizers around or inside the wrapped optimizer."""
    scales = []
    while optimizer is not None:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            scales.append(optimizer.dynamic_scale)
        optimizer = vars(optimizer).get("inner_optimizer")
    return scales


def _without(variables: Sequence[Any], excluded: Sequence[Any]) -> list[Any]:
    ids = {id(variable) for variable in excluded}
    return [variable for variable in variables if id(variable) not in ids]
