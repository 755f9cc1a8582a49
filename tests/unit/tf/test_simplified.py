"""tf_backup/_tf/simplified.py: a simplified graph computes the same."""

from __future__ import annotations

import types
from typing import Any

import pytest
import tensorflow as tf

from tf_backup._tf.simplified import in_order, simplified


def simplify(function: Any) -> tuple[Any, Any]:
    """Return a concrete function's simplified graph, and a function that runs it."""
    graph = function.graph
    definition, renamed = simplified(graph, [each.name for each in function.outputs])
    outputs = [renamed.get(each.name, each.name) for each in function.outputs]

    def less(*args: tf.Tensor) -> list[tf.Tensor]:
        given = [each for each in graph.inputs if each.dtype != tf.resource]
        values = [tf.convert_to_tensor(arg) for arg in args]
        known = dict(zip((each.name for each in given), values, strict=True))
        here: Any = tf.compat.v1.get_default_graph()
        known |= {inside.name: here.capture(outside) for outside, inside in graph.captures}
        found: list[tf.Tensor] = tf.import_graph_def(
            definition, input_map=known, return_elements=outputs, name=""
        )
        return found

    return definition, tf.function(less, autograph=False)


def kinds(definition: Any) -> list[str]:
    return [node.op for node in definition.node]


def test_what_ties_tensors_together_is_gone() -> None:
    @tf.function(input_signature=[tf.TensorSpec([2]), tf.TensorSpec([])])  # type: ignore[untyped-decorator]
    def traced(a: tf.Tensor, b: tf.Tensor) -> Any:
        c, d = tf.identity_n([a + 1.0, b])
        e, f = tf.identity_n([c, d * 2.0])
        return e * 3.0, f

    definition, less = simplify(traced.get_concrete_function())
    assert "IdentityN" not in kinds(definition)
    for one, other in zip(less([1.0, 2.0], 3.0), traced([1.0, 2.0], 3.0), strict=True):
        tf.debugging.assert_equal(one, other)


def test_a_variable_is_read_once_between_two_writes() -> None:
    variable = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([])])  # type: ignore[untyped-decorator]
    def traced(a: tf.Tensor) -> Any:
        before = variable * a + variable.read_value() * variable
        variable.assign_add(a)
        return before, variable * a + variable

    definition, less = simplify(traced.get_concrete_function())
    assert kinds(definition).count("ReadVariableOp") == 2
    assert [float(each) for each in less(3.0)] == [2.0 * 3 + 2 * 2, 5.0 * 3 + 5]
    assert float(variable) == 5.0


def test_what_draws_numbers_does_so_as_often() -> None:
    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def traced() -> Any:
        return tf.random.uniform([]), tf.random.uniform([])

    definition, less = simplify(traced.get_concrete_function())
    assert kinds(definition).count("RandomUniform") == 2
    one, other = less()
    assert float(one) != float(other)


def test_what_changes_nothing_and_is_not_used_is_gone() -> None:
    variable = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([])])  # type: ignore[untyped-decorator]
    def traced(a: tf.Tensor) -> tf.Tensor:
        tf.sqrt(a)
        variable.assign(a)
        return a + 1.0

    definition, less = simplify(traced.get_concrete_function())
    assert "Sqrt" not in kinds(definition)
    less(4.0)
    assert float(variable) == 4.0


class Hashed(str):
    """A name whose hash is chosen: Python's own differs from process to process."""

    number: int

    def __hash__(self) -> int:
        return self.number


@pytest.mark.parametrize("direction", [1, -1])
def test_operations_have_the_same_order_in_every_process(direction: int) -> None:
    def operation(name: str, *before: Any) -> Any:
        hashed = Hashed(name)
        hashed.number = direction * ord(name)
        inputs = [types.SimpleNamespace(op=each) for each in before[:1]]
        return types.SimpleNamespace(
            name=hashed, inputs=inputs, control_inputs=list(before[1:])[::direction]
        )

    parts = [operation(name) for name in "bcdef"]
    barrier = operation("a", *parts)
    graph = types.SimpleNamespace(get_operations=lambda: [barrier, *parts])
    assert "".join(each.name for each in in_order(graph)) == "bcdefa"
