"""What is trained: variables, and the function that workers compute on a batch."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Tensor = Any
Variable = Any  # a tf.Variable on a parameter server

_NAMED = 2  # So many resources are named that a computation cannot use.


class Results(NamedTuple):
    """What a worker computes on one batch; None where there is nothing."""

    gradients: Sequence[Any]  # one per trainable variable: of its shape, or tf.IndexedSlices
    changes: Sequence[Tensor | None]  # one per state variable: what to add to it
    sums: Sequence[Tensor | None]  # one per sum variable: what to add to it
    reports: Sequence[Tensor] = ()  # scalars of which the mean is reported; [] float32


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is trained, told in tensors.

    Attributes:
      read: the variables whose values workers get.
      trainable: the variables that gradients are computed for. Those that are not in `read` are
        tables: workers look rows of them up, and send gradients as tf.IndexedSlices.
      state: variables that the computation reads and may change, such as batch-norm
        statistics. Update t adds the mean of the N changes before it applies gradients;
        trainable variables may be among them.
      sums: variables that the computation adds to and never reads, such as the total and
        count of a metric. Update t adds the sum of the N contributions.
      compute: called on workers, as `compute(values, seed, batch)`, where `values` are the values
        of `read`, `seed` ([2] int64) differs by worker and step, and `batch` is an element of
        the worker's data; returns `Results`. Made by `traced`.
      apply: called by the chief, in a graph, with the N gradients' mean, one (or None) per
        trainable variable: updates these variables.
      results: called by the chief after the update, in a graph, with the mean of the N
        reports: what to tell of the update.
      tables: variables of which `compute` looks rows up.
    """

    read: Sequence[Variable]
    trainable: Sequence[Variable]
    state: Sequence[Variable]
    sums: Sequence[Variable]
    compute: Any
    apply: Callable[[Sequence[Any]], None]
    results: Callable[[Sequence[Tensor]], Any]
    tables: Sequence[Variable] = ()


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is evaluated, told in tensors.

    Attributes:
      read: the variables whose values workers get.
      compute: called on workers, as `compute(values, seed, batch)`; returns tensors that are
        added up over all batches. Made by `traced`.
      results: called eagerly with the sums: what to tell of them.
      tables: variables of which `compute` looks rows up.
    """

    read: Sequence[Variable]
    compute: Any
    results: Callable[[Sequence[Tensor]], Any]
    tables: Sequence[Variable] = ()


def traced(
    compute: Callable[..., Any],
    read: Sequence[Variable],
    element_spec: Any,
    *,
    tables: Sequence[Variable] = (),
    jit_compile: bool = False,
) -> Any:
    """Returns a worker's computation as a concrete function.

    Args:
      compute: from the values of `read`, a seed ([2] int64) and a batch to results.
      read: the variables whose values it gets; it must not use any other, but for `tables`.
      element_spec: of the batches.
      tables: variables of which it looks rows up.
      jit_compile: whether to compile it with XLA.

    Raises:
      ValueError: if it uses what only the chief's process has.
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
    """Returns a few words on captured resources: a handle prints itself in 300 letters."""
    names = [textwrap.shorten(str(tensor), 100, placeholder=" ...") for tensor in tensors]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
