"""Tables on one device: rows by ids, their gradients, and the mean of N gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_backup._tf import graphs, runtime
from tf_backup.servers import tables
from tf_backup.servers.tables import Lookups

pytestmark = pytest.mark.slow  # Computes for seconds.

Tensor = Any

ROWS, WIDTH = 5, 2
VALUES = np.arange(10.0, 20.0, dtype=np.float32).reshape([ROWS, WIDTH])


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """Treat one device as every server; return the servers called, with their arguments."""
    calls: list[tuple[int, Any]] = []

    def on_server(ps: int, function: Callable[..., Any], *args: Any) -> Any:
        calls.append((ps, *args))
        return function(*args)

    monkeypatch.setattr(graphs, "on_server", on_server)
    monkeypatch.setattr(runtime, "ps_index", lambda device: 3)
    return calls


def table_of(values: Any = VALUES, **options: Any) -> tf.Variable:
    return tf.Variable(values, **options)


def in_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as a graph, since workers look rows up in a graph."""
    return tf.function(function, autograph=False)


# ---- Rows -------------------------------------------------------------------------------------

IDS: dict[str, Any] = {
    "scalar": 3,
    "vector": [0, 4, 2],
    "matrix": [[0, 1, 2], [2, 3, 4]],
    "cube": [[[0], [1]], [[4], [3]]],
    "repeated": [[2, 2], [0, 2]],
    "negative": [-1, 0, -5],
    "the same from both ends": [4, -1, -1, 4],
    "empty": np.zeros([0], np.int64),
    "empty matrix": np.zeros([2, 0], np.int64),
}


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_rows(ids: Any, dtype: Any):
    ids = np.array(ids)
    table = table_of()
    rows = in_graph(lambda ids: Lookups().rows(table, ids))(tf.constant(ids.astype(dtype)))
    np.testing.assert_array_equal(rows, VALUES[ids])
    assert rows.dtype == tf.float32


@pytest.mark.parametrize("shape", [[ROWS], [ROWS, 2], [ROWS, 2, 3]], ids=str)
def test_rows_of_any_shape(shape: list[int]):
    values = np.random.default_rng(0).normal(size=shape)
    table = table_of(values)
    rows = in_graph(lambda ids: Lookups().rows(table, ids))(tf.constant([[1, -1], [0, 1]]))
    np.testing.assert_array_equal(rows, values[[[1, -1], [0, 1]]])
    assert rows.dtype == tf.float64


@pytest.mark.parametrize("shape", [[], [4], [None], [2, 3], [None, 3], [None, None]], ids=str)
def test_static_shape_is_known(shape: list[int | None]):
    table, seen = table_of(), []

    def look(ids: Tensor) -> Tensor:
        rows = Lookups().rows(table, ids)
        seen.append(rows.shape.as_list())
        return rows

    in_graph(look).get_concrete_function(tf.TensorSpec(shape, tf.int64))
    assert seen == [[*shape, WIDTH]]


def test_the_tables_server_is_asked_once_for_each_row(asked: list[tuple[int, Any]]):
    table, sent = table_of(), []

    def look(ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = Lookups().rows(table, ids)
        ((server, unique),) = asked
        sent.append(server)
        return rows, unique

    _, unique = in_graph(look)(tf.constant([[4, 1, 4], [-1, 1, -4]]))
    assert sent == [3]
    assert sorted(unique.numpy()) == [1, 4]


@pytest.mark.parametrize("wrong", [ROWS, -ROWS - 1])
def test_ids_out_of_range_are_refused(wrong: int):
    table = table_of()
    look = in_graph(lambda ids: Lookups().rows(table, ids))
    with pytest.raises(tf.errors.InvalidArgumentError):
        look(tf.constant([0, wrong]))


# ---- Gradients --------------------------------------------------------------------------------


def gradient_of(
    table: tf.Variable, compute: Callable[[Lookups, Any], Tensor], *args: Any
) -> tf.IndexedSlices | None:
    """Return a table's gradient through `compute`, which gets lookups and the arguments."""

    def worker(*args: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            lookups = Lookups(tape)
            value = compute(lookups, *args)
        found = tape.gradient(value, lookups.looked_up(table))
        return lookups.gradient(table, found)

    return in_graph(worker)(*map(tf.constant, args))


def dense(slices: tf.IndexedSlices) -> np.ndarray[Any, Any]:
    """Return a gradient as an array, with the sum of repeated rows."""
    total = np.zeros(slices.dense_shape.numpy(), slices.dtype.as_numpy_dtype)
    np.add.at(total, slices.indices.numpy(), slices.values.numpy())
    return total


def expected(values: Any, compute: Callable[[Tensor], Tensor]) -> np.ndarray[Any, Any]:
    """Return the gradient of a table that is read as a whole."""
    with tf.GradientTape() as tape:
        tape.watch(whole := tf.constant(values))
        value = compute(whole)
    return np.array(tf.convert_to_tensor(tape.gradient(value, whole)))


def test_a_gradient_sums_ids_that_come_twice():
    weights = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], np.float32)
    ids = np.array([[0, 3, 0], [0, 3, -2]])

    def weighted(lookups: Lookups, ids: Tensor) -> Tensor:
        return tf.reduce_sum(lookups.rows(table, ids) * weights[..., None])

    table = table_of()
    gradient = gradient_of(table, weighted, ids)
    assert gradient is not None
    assert gradient.indices.numpy().tolist() == [0, 3]
    np.testing.assert_array_equal(gradient.values, [[13.0, 13.0], [50.0, 50.0]])
    assert gradient.dense_shape.numpy().tolist() == [ROWS, WIDTH]
    assert gradient.indices.dtype == tf.int64


def test_a_gradient_is_of_all_lookups():
    def product(rows: Callable[[Any], Tensor]) -> Tensor:
        return tf.reduce_sum(rows([0, 1]) * rows([1, 4]) ** 2)

    table = table_of()
    gradient = gradient_of(
        table, lambda lookups: product(lambda ids: lookups.rows(table, tf.constant(ids)))
    )
    assert gradient is not None
    assert sorted(gradient.indices.numpy()) == [0, 1, 1, 4]  # One for each lookup.
    wanted = expected(VALUES, lambda whole: product(lambda ids: tf.gather(whole, ids)))
    np.testing.assert_allclose(dense(gradient), wanted)


def test_gradients_of_two_tables_are_kept_apart():
    one, other = table_of(), table_of(VALUES + 1)

    def product(lookups: Lookups) -> Tensor:
        return tf.reduce_sum(
            lookups.rows(one, tf.constant([0])) * lookups.rows(other, tf.constant([2]))
        )

    for table, row, value in ((one, 0, VALUES[2] + 1), (other, 2, VALUES[0])):
        gradient = gradient_of(table, product)
        assert gradient is not None
        assert gradient.indices.numpy().tolist() == [row]
        np.testing.assert_array_equal(gradient.values, [value])


def test_a_gradient_of_no_ids_is_empty():
    table = table_of()
    ids = np.zeros([2, 0], np.int64)
    gradient = gradient_of(table, lambda lookups, ids: tf.reduce_sum(lookups.rows(table, ids)), ids)
    assert gradient is not None
    assert gradient.indices.shape == [0]
    assert gradient.values.shape == [0, WIDTH]


def test_no_lookup_no_gradient():
    table, other = table_of(), table_of()
    assert (
        gradient_of(table, lambda lookups: tf.reduce_sum(lookups.rows(other, tf.constant([1]))))
        is None
    )


def test_rows_that_the_loss_does_not_use_have_no_gradient():
    table = table_of()

    def constant(lookups: Lookups, weight: Tensor) -> Tensor:
        lookups.rows(table, tf.constant([1]))
        return 2.0 * weight

    assert gradient_of(table, constant, 1.0) is None


def test_of_two_lookups_one_may_have_no_gradient():
    table = table_of()

    def one_of_two(lookups: Lookups) -> Tensor:
        lookups.rows(table, tf.constant([1]))
        return tf.reduce_sum(lookups.rows(table, tf.constant([2])))

    gradient = gradient_of(table, one_of_two)
    assert gradient is not None
    assert gradient.indices.numpy().tolist() == [2]


def test_without_a_tape_nothing_is_kept():
    table = table_of()

    def look(ids: Tensor) -> Tensor:
        lookups = Lookups()
        rows = lookups.rows(table, ids)
        assert lookups.looked_up(table) == []
        assert lookups.gradient(table, []) is None
        return rows

    in_graph(look)(tf.constant([1]))


def test_a_table_that_is_not_trained_is_not_watched():
    table = table_of(trainable=False)

    def look(ids: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            lookups = Lookups(tape)
            rows = lookups.rows(table, ids)
        assert lookups.looked_up(table) == []
        return rows

    np.testing.assert_array_equal(in_graph(look)(tf.constant([1])), VALUES[[1]])


# ---- Where they are possible ------------------------------------------------------------------


def test_lookups_are_possible_where_they_were_made_and_in_no_branch_or_loop():
    seen: dict[str, bool] = {}

    def worker(x: Tensor) -> Tensor:
        lookups = Lookups()

        def noting(name: str, value: Tensor) -> Tensor:
            seen[name] = lookups.possible
            return value

        seen["first"] = lookups.possible
        x = tf.cond(x > 0, lambda: noting("then", x + 1), lambda: noting("else", x))
        (x,) = tf.while_loop(
            lambda x: noting("condition", x < 5), lambda x: (noting("body", x + 1),), [x]
        )
        x = in_graph(lambda x: noting("function", x))(x)
        seen["last"] = lookups.possible
        return x

    assert int(in_graph(worker)(tf.constant(1))) == 5
    inside = ("then", "else", "condition", "body", "function")
    assert seen == {"first": True, "last": True, **dict.fromkeys(inside, False)}


def test_lookups_made_in_a_branch_are_possible_there():
    seen: list[bool] = []

    def branch() -> Tensor:
        seen.append(Lookups().possible)
        return tf.constant(1)

    in_graph(lambda x: tf.cond(x, branch, lambda: tf.constant(0)))(tf.constant(True))
    assert seen == [True]


# ---- The mean of N ----------------------------------------------------------------------------

Part = tuple[list[int], list[list[float]]]  # One worker's ids and rows.

PARTS: list[Part] = [
    ([0, 3], [[3.0, 6.0], [9.0, 12.0]]),
    ([3, 1, 3], [[1.0, 2.0], [6.0, 3.0], [2.0, 1.0]]),
    ([], []),
]


def mean_of(parts: Sequence[Part], traced: bool = False) -> tf.IndexedSlices:
    ids = [tf.constant(part[0], tf.int64) for part in parts]
    rows = [tf.reshape(tf.constant(part[1], tf.float32), [-1, WIDTH]) for part in parts]

    def mean(ids: list[Tensor], rows: list[Tensor]) -> tf.IndexedSlices:
        return tables.mean(ids, rows, [ROWS, WIDTH])

    return (in_graph(mean) if traced else mean)(ids, rows)


@pytest.mark.parametrize("traced", [False, True])
def test_a_mean_divides_by_n_however_many_touched_a_row(traced: bool):
    mean = mean_of(PARTS, traced)
    assert sorted(mean.indices.numpy()) == [0, 1, 3]  # Once each.
    wanted = np.zeros([ROWS, WIDTH])
    wanted[0], wanted[1], wanted[3] = [1.0, 2.0], [2.0, 1.0], [4.0, 5.0]
    np.testing.assert_array_equal(dense(mean), wanted)
    assert mean.dense_shape.numpy().tolist() == [ROWS, WIDTH]
    assert mean.indices.dtype == tf.int64


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_order_does_not_matter(order: Sequence[int]):
    mean = dense(mean_of([PARTS[place] for place in order]))
    np.testing.assert_array_equal(mean, dense(mean_of(PARTS)))


def test_the_mean_of_one_is_its_rows():
    ids, rows = [4, 0], [[1.0, 2.0], [3.0, 4.0]]
    mean = mean_of([(ids, rows)])
    assert mean.indices.numpy().tolist() == ids
    np.testing.assert_array_equal(mean.values, rows)


@pytest.mark.parametrize("count", [1, 3])
def test_the_mean_of_nothing_is_empty(count: int):
    mean = mean_of([([], [])] * count)
    assert mean.indices.shape == [0]
    assert mean.values.shape == [0, WIDTH]


def test_a_mean_is_that_of_the_dense_gradients():
    rng = np.random.default_rng(2)
    parts: list[Part] = []
    wanted = np.zeros([ROWS, WIDTH], np.float32)
    for size in (4, 1, 7):
        ids = rng.integers(ROWS, size=size)
        rows = rng.normal(size=[size, WIDTH]).astype(np.float32)
        np.add.at(wanted, ids, rows / 3)
        parts.append((ids.tolist(), rows.tolist()))
    np.testing.assert_allclose(dense(mean_of(parts)), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_a_mean_has_the_dtype_of_its_rows(dtype: tf.DType):
    ids = [tf.constant([1], tf.int64)] * 2
    mean = tables.mean(ids, [tf.constant([[1.0]], dtype), tf.constant([[2.0]], dtype)], [ROWS, 1])
    assert mean.values.dtype == dtype
    assert float(mean.values[0, 0]) == 1.5


def test_one_optimizer_step_moves_only_rows_that_were_touched():
    table = table_of()
    mean = mean_of(PARTS)
    table.scatter_sub(mean)
    np.testing.assert_array_equal(table, VALUES - dense(mean))
