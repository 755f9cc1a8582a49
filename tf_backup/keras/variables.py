"""The variables of a Keras model in the order in which an objective has them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.keras import _internals
from tf_backup.objective import Objective, traced
from tf_backup.servers.tables import Lookups

log = logging.getLogger(__name__)

Tensor = Any
Model = Any  # a built keras.Model or keras.layers.Layer

_LARGE_TABLE = 2**24  # Elements; worth a word if every worker reads it whole at every step.


class KerasVariables:
    """The variables of a model, and the values that they have while a worker computes.

    Args:
      model: built.
      optimizer: the model's, built; None to evaluate without one.
    """

    def __init__(self, model: Model, optimizer: Any) -> None:
        seeds = _internals.seed_states(model)
        self.trainable = list(model.trainable_variables)
        self.state = _without(model.non_trainable_variables, seeds)
        self.state += _loss_scales(optimizer)  # Workers scale their loss by them.
        self.sums = _internals.metric_variables(model)
        # With the seeds that the user set, every run draws the same.
        self.seeds = [(seed, seed.numpy()) for seed in seeds]
        known = {id(variable) for variable in [*self.trainable, *self.state]}
        self.tables = [
            table
            for table in _internals.embedding_tables(model)
            if id(table) in known and runtime.is_on_ps(_internals.tensors_of(table).device)
        ]
        self.settings: list[Any] = []  # The optimizer's, which a computation may look at.
        self.kept: list[Any] = []  # What must live as long as the traced computation.
        self._whole: list[Any] = []  # Tables that the last trace has read whole.

    @property
    def read(self) -> list[Any]:
        """The variables whose values workers get: all that are no tables and no sums."""
        return _without([*self.trainable, *self.state, *self.settings], self.tables)

    @property
    def changing(self) -> list[Any]:
        """The variables that a computation may assign to, beside the sums.

        Trainable ones are among them: some layers normalise or project a weight in `call`.
        """
        return [*self.state, *self.trainable]

    def check_placed(self) -> None:
        """Refuses variables that are on no parameter server.

        Raises:
          ValueError: naming the first of them.
        """
        for variable in [*self.trainable, *self.state, *self.sums]:
            if not runtime.is_on_ps(_internals.tensors_of(variable).device):
                raise ValueError(
                    f"variable {variable.path!r} is on no parameter server: "
                    f"{variable.path.split('/')[0]!r} was created outside the strategy's scope. "
                    "Create it inside `with strategy.scope():`: the model and the optimizer, and "
                    "also metrics, augmentation layers and what `adapt` is called on; and call "
                    "compile there."
                )

    def scope(self, values: Sequence[Tensor], seed: Tensor | None) -> _internals.ValuesScope:
        """Returns a scope in which the model's variables have the given values.

        Args:
          values: of `read`. Sums are zero, so that they hold what is added.
          seed: [2] int64, which every seed generator mixes with its own; None for no mixing.
        """
        mapping = list(zip(self.read, values, strict=True))
        mapping += [(v, tf.zeros(v.shape, v.dtype)) for v in self.sums]
        mapping += [(v, mixed(start, seed, v.dtype)) for v, start in self.seeds]
        scope = _internals.ValuesScope(mapping, self.tables)
        self._whole = scope.whole
        return scope

    def add(self, sums: Sequence[Tensor]) -> None:
        """Adds to the model's sums; called eagerly."""
        for variable, more in zip(self.sums, sums, strict=True):
            variable.assign(variable + more)

    def lookup(self, lookups: Lookups) -> Any:
        """Returns a scope in which embedding layers look the rows of tables up."""
        tables = {id(table): _internals.tensors_of(table) for table in self.tables}

        def rows(variable: Any, ids: Tensor) -> Tensor | None:
            if id(variable) not in tables or not lookups.possible:
                return None
            return lookups.rows(tables[id(variable)], ids)

        return _internals.looking_up(rows)

    def objective(
        self,
        compute: Callable[..., Any],
        optimizer: Any,
        results: Callable[[Sequence[Tensor]], Any],
        element_spec: Any,
        jit_compile: bool = False,
    ) -> Objective:
        """Returns the objective of a computation on these variables.

        Args:
          compute: see `Objective`; it is traced here.
          optimizer: that the mean gradients are applied with, built.
          results: see `Objective`.
          element_spec: of the batches.
          jit_compile: whether workers compile the computation with XLA.

        Raises:
          ValueError: if the computation uses what only the chief's process has.
        """

        def apply(gradients: Sequence[Any]) -> None:
            with runtime.outside_strategy():
                optimizer.apply(gradients, self.trainable)

        computed = self.traced(compute, element_spec, jit_compile)  # First: it finds the tables.
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
        """Returns a worker's computation as a concrete function; see `objective.traced`.

        A table that the computation reads whole (for a regulariser, say) is no table to it. XLA
        cannot look anything up elsewhere: for it there are no tables.
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
    """Returns the `tf.Variable`s of Keras variables."""
    return [_internals.tensors_of(variable) for variable in variables]


def mixed(start: Any, seed: Tensor | None, dtype: str) -> Tensor:
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
