"""tf_backup/_tf/formulas.py: a part of a graph is run elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from tf_backup._tf.formulas import Formula, formula


def traced(compute: Callable[..., Any]) -> Formula | None:
    """Return the formula of a result in terms of two sources, which depend on an input."""
    found: list[Formula | None] = []

    def function(batch: Any) -> Any:
        sources = [tf.reduce_sum(batch), tf.reduce_max(batch)]
        result = compute(*sources, batch)
        found.append(formula(result, sources))
        return result

    tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([None]))
    return found[0]


def power(number: Any) -> Any:
    return tf.while_loop(lambda x: x < 100.0, lambda x: (x * number,), [number])[0]


FORMULAS: dict[str, Callable[..., Any]] = {
    "itself": lambda a, b, batch: a,
    "one": lambda a, b, batch: tf.exp(a) + 1.0,
    "both": lambda a, b, batch: a - 2.0 * b,
    "vector": lambda a, b, batch: tf.stack([b, a]),
    "second output": lambda a, b, batch: tf.unstack(tf.stack([a, b, a]))[1],
    "branch": lambda a, b, batch: tf.cond(a > 2.0, lambda: a + b, lambda: b),
    "loop": lambda a, b, batch: power(a),
    "function": lambda a, b, batch: tf.function(lambda x: x * 3.0)(a),
}


@pytest.mark.parametrize("compute", FORMULAS.values(), ids=FORMULAS.keys())
@pytest.mark.parametrize("graph", [False, True])
def test_a_formula_computes_the_same_from_other_values(compute: Callable[..., Any], graph: bool):
    found = traced(compute)
    assert found is not None
    run = tf.function(found.compute, autograph=False) if graph else found.compute
    for values in ([5.0, 7.0], [1.5, 3.0]):
        sources = [tf.constant(value) for value in values]
        given = [sources[place] for place in found.places]
        wanted = compute(*sources, None)
        assert run(*given).numpy().tolist() == wanted.numpy().tolist()


def test_what_depends_on_a_constant_that_will_differ_has_no_formula():
    found = []

    def function(x: Any) -> Any:
        start = tf.zeros([])
        found.append(formula(x + start, [x], [start]))
        found.append(formula(x + 0.0, [x], [start]))
        return x

    tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([]))
    assert [each is None for each in found] == [True, False]


def test_a_formula_names_the_sources_that_it_uses():
    found = traced(lambda a, b, batch: b + 1.0)
    assert found is not None
    assert found.places == [1]


OTHERS: dict[str, Callable[..., Any]] = {
    "input": lambda a, b, batch: a + batch[0],
    "nothing": lambda a, b, batch: tf.constant(1.0),
    "random": lambda a, b, batch: a + tf.random.uniform([]),
}


@pytest.mark.parametrize("compute", OTHERS.values(), ids=OTHERS.keys())
def test_what_depends_on_anything_else_has_no_formula(compute: Callable[..., Any]):
    assert traced(compute) is None
