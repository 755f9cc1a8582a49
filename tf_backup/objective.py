"""What is trained: variables, and the function that workers compute on a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Tensor = Any
Variable = Any  # a tf.Variable on a parameter server


class Results(NamedTuple):
    """What a worker computes on one batch; None where there is nothing."""

    gradients: Sequence[Tensor | None]  # one per trainable variable, of its shape
    changes: Sequence[Tensor | None]  # one per state variable: what to add to it
    sums: Sequence[Tensor | None]  # one per sum variable: what to add to it


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is trained, told in tensors.

    Attributes:
      trainable: the variables that gradients are computed for.
      state: variables that the computation reads and may change, such as batch-norm
        statistics. Update t adds the mean of the N changes.
      sums: variables that the computation adds to and never reads, such as the total and
        count of a metric. Update t adds the sum of the N contributions.
      compute: called on workers, in a graph, as `compute(values, seed, batch)`, where `values`
        are the values of `trainable` and then `state` as tensors, `seed` ([2] int64) differs by
        worker and step, and `batch` is an element of the worker's data. It must only use these.
      apply: called by the chief, in a graph, with the N gradients' mean, one (or None) per
        trainable variable: updates these variables.
      results: called by the chief after the update, in a graph: what to report of it.
      jit_compile: whether workers compile `compute` with XLA.
    """

    trainable: Sequence[Variable]
    state: Sequence[Variable]
    sums: Sequence[Variable]
    compute: Callable[[Sequence[Tensor], Tensor, Any], Results]
    apply: Callable[[Sequence[Tensor | None]], None]
    results: Callable[[], Any]
    jit_compile: bool = False

    def trace(self, element_spec: Any) -> Any:
        """Returns `compute` as a concrete function for batches of `element_spec`."""
        values = [tf.TensorSpec(v.shape, v.dtype) for v in [*self.trainable, *self.state]]
        function = tf.function(self.compute, jit_compile=self.jit_compile, autograph=False)
        seed = tf.TensorSpec([2], tf.int64)
        concrete = function.get_concrete_function(values, seed, element_spec)
        foreign = [t for t in concrete.captured_inputs if t.dtype in (tf.resource, tf.variant)]
        if foreign:
            raise ValueError(
                "the model uses something that lies in the chief's process: a lookup table (as "
                "StringLookup and TextVectorization have), or a variable that Keras does not "
                "know. Move it into the data set's map, or make the variable with add_weight. "
                f"TensorFlow calls it {', '.join(str(t) for t in foreign)}."
            )
        return concrete
