"""Training objectives: variables, and the function that workers compute on a batch."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup.annotations import Tensor, Variable

_NAMED = 2  # Maximum number of unusable resources that an error message names.


class Results(NamedTuple):
    """Results of a worker's computation on one batch; None where there is none."""

    gradients: Sequence[Any]  # one per trainable variable: of its shape, or tf.IndexedSlices
    changes: Sequence[Tensor | None]  # one per state variable: what to add to it
    sums: Sequence[Tensor | None]  # one per sum variable: what to add to it
    reports: Sequence[Tensor] = ()  # scalars whose means are reported; [] float32


class Totals(NamedTuple):
    """What N workers have computed for one update; None where there is nothing."""

    gradients: Sequence[Any]  # one per trainable variable: the mean
    changes: Sequence[Tensor | None]  # one per state variable: the mean
    sums: Sequence[Tensor | None]  # one per sum variable: the sum
    reports: Sequence[Tensor]  # the means


@dataclasses.dataclass(frozen=True)
class Objective:
    """A training objective, described in tensors.

    Attributes:
      read: the variables whose values workers get.
      trainable: the variables to compute gradients for. Those that are not in `read` are tables:
        workers look up rows of them, and send gradients as tf.IndexedSlices.
      state: the variables that the computation reads and may change, such as batch-norm
        statistics. Update t adds the mean of the N changes before it applies gradients.
        Trainable variables may be among them.
      sums: the variables that the computation adds to and never reads, such as the total and
        count of a metric. Update t adds the sum of the N contributions.
      compute: a concrete function made by `traced`. Workers call `compute(values, seed, batch)`,
        where `values` are the values of `read`, `seed` ([2] int64) differs by worker and step,
        and `batch` is an element of the worker's data. It returns `Results`.
      apply: a function that updates the trainable variables. The chief calls it in a graph with
        the mean gradients, one (or None) per trainable variable.
      results: a function that returns what to report about an update. The chief calls it in a
        graph after the update, with the means of the N reports.
      tables: the variables that `compute` looks up rows of.
    """

    read: Sequence[Variable]
    trainable: Sequence[Variable]
    state: Sequence[Variable]
    sums: Sequence[Variable]
    compute: Any
    apply: Callable[[Sequence[Any]], None]
    results: Callable[[Sequence[Tensor]], Any]
    tables: Sequence[Variable] = ()

    @property
    def targets(self) -> dict[str, Sequence[Variable]]:
        """The variables that results are for, by the field of `Results`."""
        return {"gradients": self.trainable, "changes": self.state, "sums": self.sums}

    def update(self, totals: Totals) -> Any:
        """Update all variables, in a graph, and return what to report.

        Changes come first: trainable variables may be among the state, and gradients apply to
        their new values.
        """
        for variables, values in ((self.state, totals.changes), (self.sums, totals.sums)):
            for variable, value in zip(variables, values, strict=True):
                if value is not None:
                    variable.assign_add(value)
        self.apply(totals.gradients)
        return self.results(totals.reports)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """An evaluation, described in tensors.

    Attributes:
      read: the variables whose values workers get.
      compute: a concrete function made by `traced`. Workers call `compute(values, seed, batch)`;
        the tensors that it returns, in any structure, are added up over all batches.
      results: a function that turns the sums, in the same structure, into the evaluation's results;
        called eagerly.
      tables: the variables that `compute` looks up rows of.
    """

    read: Sequence[Variable]
    compute: Any
    results: Callable[[Any], Any]
    tables: Sequence[Variable] = ()


def traced(
    compute: Callable[..., Any],
    read: Sequence[Variable],
    element_spec: Any,
    *,
    tables: Sequence[Variable] = (),
    jit_compile: bool = False,
) -> Any:
    """Return a worker's computation as a concrete function.

    Args:
      compute: function from the values of `read`, a seed ([2] int64) and a batch to results.
      read: the variables whose values `compute` gets. It may use no others, except `tables`.
      element_spec: spec of the batches.
      tables: the variables that `compute` looks up rows of.
      jit_compile: whether to compile it with XLA.

    Raises:
      ValueError: if `compute` uses a resource that only the chief's process has.
    """
    values = [tf.TensorSpec(v.shape, v.dtype) for v in read]
    function = tf.function(compute, jit_compile=jit_compile, autograph=False)
    concrete = function.get_concrete_function(values, tf.TensorSpec([2], tf.int64), element_spec)
    foreign = [
        tensor
        for tensor in concrete.captured_inputs
        if tensor.dtype in (tf.resource, tf.variant)
        and not any(tensor is table.handle for table in tables)
    ]
    if foreign:
        raise ValueError(
            "the computation uses something that is no part of the model and lies in the chief's "
            "process: a lookup table (as StringLookup and TextVectorization have), a variable of "
            "another model, or one that Keras does not know. Move the table into the data set's "
            "map, make one model of the two, or make the variable with add_weight. "
            f"TensorFlow calls it {_names(foreign)}."
        )
    return concrete


def _names(tensors: Sequence[Tensor]) -> str:
    """Return short names of captured resources; a handle's own is 300 characters long."""
    names = [textwrap.shorten(str(tensor), 100, placeholder=" ...") for tensor in tensors]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
