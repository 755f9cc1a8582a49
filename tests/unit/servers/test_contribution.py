"""Results of N workers, through the parameter servers, to one mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.objective import Objective, Results, Totals
from tf_backup.servers.contribution import Contribution
from tf_backup.servers.tokens import GATE_SERVER

Tensor = Any


class Variable(NamedTuple):
    """The part of a variable that a contribution reads."""

    device: str
    shape: Any
    dtype: tf.DType


def variable(ps: int, shape: Sequence[int] = (), dtype: tf.DType = tf.float32) -> Variable:
    return Variable(runtime.ps_device(ps), tf.TensorShape(shape), dtype)


def objective(
    trainable: Sequence[Any] = (), state: Sequence[Any] = (), sums: Sequence[Any] = ()
) -> Objective:
    return Objective(
        read=[*trainable, *state],
        trainable=trainable,
        state=state,
        sums=sums,
        compute=None,
        apply=lambda gradients: None,
        results=lambda reports: None,
    )


def slices(ids: Sequence[int], rows: Any, shape: Sequence[int], dtype: Any = tf.float32) -> Any:
    rows = tf.reshape(tf.constant(rows, dtype), [-1, *shape[1:]])
    return tf.IndexedSlices(rows, tf.constant(ids, tf.int64), tf.constant(shape, tf.int64))


def totals(contribution: Contribution, workers: Sequence[Results | None]) -> Totals:
    """Return what the chief computes from N workers' results; None is a worker without data."""
    sent = [
        contribution.nothing() if results is None else contribution.buffers(results)
        for results in workers
    ]
    found = []
    for ps in contribution.servers:
        parts = [contribution.part(buffers, ps) for buffers in sent]
        for part in parts:
            assert_fits(part, contribution.specs(ps))
        found.append(contribution.combine(parts, ps, len(workers)))
    return contribution.totals(found)


def assert_fits(buffers: Sequence[Tensor], specs: Sequence[tf.TensorSpec]) -> None:
    for buffer, spec in zip(buffers, specs, strict=True):
        assert spec.is_compatible_with(buffer), (buffer, spec)


def dense(gradient: tf.IndexedSlices) -> np.ndarray[Any, Any]:
    total = np.zeros(gradient.dense_shape.numpy(), np.float64)
    np.add.at(total, gradient.indices.numpy(), gradient.values.numpy())
    return total


def flat(found: Totals) -> list[Any]:
    return [value for field in found for value in field]


def equal(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# ---- Everything at once -----------------------------------------------------------------------

WIDE, FAR, COLUMN = (4, 2), (5, 3), (6,)
OBJECTIVE = objective(
    trainable=[
        variable(0, [2, 2]),
        variable(1, WIDE),  # A table.
        variable(1, [3]),
        variable(0, [7]),  # Has no gradient.
        variable(0, FAR),  # A table.
        variable(0, [2], tf.float16),
        variable(1, COLUMN),  # A table of numbers.
    ],
    state=[variable(1, [2]), variable(0, [3]), variable(1, [], tf.int64)],
    sums=[variable(1), variable(0, [2]), variable(0, [], tf.int32), variable(1)],
)


def results_of(worker: int) -> Results:
    """Return results that differ by worker, multiples of 3 x 2^-n: exact for 3 workers."""
    k = 3.0 * worker
    return Results(
        gradients=[
            tf.constant([[k, 1.0], [2.0, k]]),
            slices([worker, 3], [[k, 6.0], [3.0, k]], WIDE),
            tf.constant([3.0, k, -k]),
            None,
            slices([0] * worker, [[3.0, 6.0, 9.0]] * worker, FAR),
            tf.constant([k, 3.0], tf.float16),
            slices([5, worker], [k, 3.0], COLUMN),
        ],
        changes=[tf.constant([k, 1.5]), None, tf.constant(worker + 1, tf.int64)],
        sums=[
            tf.constant(k + 0.25),
            tf.constant([1.0, worker]),
            tf.constant(worker + 1),
            None,
        ],
        reports=[tf.constant(k), tf.constant(6.0)],
    )


def test_round_trip():
    workers = [results_of(worker) for worker in range(3)]
    contribution = Contribution(OBJECTIVE, workers[0])
    assert contribution.servers == [0, 1]
    found = totals(contribution, workers)
    assert [len(field) for field in found] == [7, 3, 4, 2]
    gradients, changes, sums, reports = found
    equal(gradients[0], [[3.0, 1.0], [2.0, 3.0]])
    equal(dense(gradients[1]), [[0.0, 2.0], [1.0, 2.0], [2.0, 2.0], [3.0, 3.0]])
    equal(gradients[2], [3.0, 3.0, -3.0])
    assert gradients[3] is None
    equal(dense(gradients[4])[0], [3.0, 6.0, 9.0])
    equal(dense(gradients[4])[1:], np.zeros([4, 3]))
    equal(gradients[5], [3.0, 3.0])
    equal(dense(gradients[6]), [1.0, 1.0, 1.0, 0.0, 0.0, 3.0])
    equal(changes[0], [3.0, 1.5])
    assert changes[1] is None
    equal(changes[2], 2)
    equal(sums[0], 9.75)
    equal(sums[1], [3.0, 3.0])
    equal(sums[2], 6)
    assert sums[3] is None
    equal(reports[0], 3.0)
    equal(reports[1], 6.0)
    for field, variables in OBJECTIVE.targets.items():
        for value, told in zip(getattr(found, field), variables, strict=True):
            assert value is None or value.dtype == told.dtype
    assert [report.dtype for report in reports] == [tf.float32, tf.float32]
    for gradient in (gradients[1], gradients[4], gradients[6]):
        assert len(set(gradient.indices.numpy())) == len(gradient.indices)


def test_order_of_workers_does_not_matter():
    workers = [results_of(worker) for worker in range(3)]
    contribution = Contribution(OBJECTIVE, workers[0])
    these, those = totals(contribution, workers), totals(contribution, workers[::-1])
    for one, other in zip(flat(these), flat(those), strict=True):
        if isinstance(one, tf.IndexedSlices):
            one, other = dense(one), dense(other)
        equal(one, other)


def test_it_is_made_from_a_traced_computations_outputs():
    read = [tf.TensorSpec(v.shape, v.dtype) for v in OBJECTIVE.read]

    def compute(values: Any) -> Results:
        del values
        return results_of(1)

    concrete = tf.function(compute, autograph=False).get_concrete_function(read)
    traced = Contribution(OBJECTIVE, concrete.structured_outputs)
    plain = Contribution(OBJECTIVE, results_of(1))
    assert traced.servers == plain.servers
    for ps in plain.servers:
        assert traced.specs(ps) == plain.specs(ps)
    zeros = [tf.zeros(spec.shape, spec.dtype) for spec in read]
    for one, other in zip(
        traced.buffers(concrete(zeros)), plain.buffers(results_of(1)), strict=True
    ):
        equal(one, other)


# ---- Nothing ----------------------------------------------------------------------------------


def test_nothing_fits_what_servers_expect():
    contribution = Contribution(OBJECTIVE, results_of(1))
    nothing = contribution.nothing()
    specs = [spec for ps in contribution.servers for spec in contribution.specs(ps)]
    assert_fits(nothing, specs)
    full = contribution.buffers(results_of(1))
    assert [part.dtype for part in nothing] == [part.dtype for part in full]
    assert not any(np.any(part) for part in nothing)


def test_nothing_and_buffers_are_two_branches_of_one_condition():
    contribution = Contribution(OBJECTIVE, results_of(1))

    @tf.function(autograph=False)
    def branch(has_data: Tensor) -> list[Tensor]:
        return tf.cond(has_data, lambda: contribution.buffers(results_of(1)), contribution.nothing)

    for one, other in zip(
        branch(tf.constant(True)), contribution.buffers(results_of(1)), strict=True
    ):
        equal(one, other)
    for one, other in zip(branch(tf.constant(False)), contribution.nothing(), strict=True):
        equal(one, other)


def test_nothing_adds_nothing():
    contribution = Contribution(OBJECTIVE, results_of(1))
    found = totals(contribution, [results_of(1), None, None])
    first, table = found.gradients[:2]
    equal(first, [[1.0, 1.0 / np.float32(3)], [2.0 / np.float32(3), 1.0]])
    equal(dense(table), [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    assert sorted(table.indices.numpy()) == [1, 3]
    equal(found.sums[0], 3.25)


def test_fewer_gradients_than_n_are_divided_by_their_number():
    contribution = Contribution(OBJECTIVE, results_of(1))
    workers = [results_of(1), results_of(2), None, None]  # The chief has zeros for those missing.
    sent = [contribution.nothing() if w is None else contribution.buffers(w) for w in workers]
    for ps in contribution.servers:
        parts = [contribution.part(buffers, ps) for buffers in sent]
        few = contribution.combine(parts, ps, tf.constant(2))
        for target, expected in contribution.combine(parts[:2], ps, 2).items():
            if isinstance(expected, tf.IndexedSlices):
                equal(dense(few[target]), dense(expected))
            else:
                equal(few[target], expected)


# ---- One thing at a time ----------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 7, 49])
def test_sums_of_counts_are_exact(replicas: int):
    told = objective(sums=[variable(0), variable(1, [2], tf.int64)])
    counts = [1 + 17 * worker for worker in range(replicas)]
    workers = [
        Results([], [], [tf.constant(float(n)), tf.constant([n, -n], tf.int64)]) for n in counts
    ]
    single, whole = totals(Contribution(told, workers[0]), workers).sums
    assert float(single) == sum(counts)
    assert whole.numpy().tolist() == [sum(counts), -sum(counts)]


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64], ids=str)
def test_integer_state_that_all_workers_move_alike_moves_so(dtype: tf.DType):
    told = objective(state=[variable(1, [3], dtype)])
    moves = [[1, -1, 7]] * 3
    workers = [Results([], [tf.constant(move, dtype)], []) for move in moves]
    (mean,) = totals(Contribution(told, workers[0]), workers).changes
    assert mean.dtype == dtype
    assert mean.numpy().tolist() == [1, -1, 7]


def test_reports_go_to_the_gates_server_alone():
    told = objective(trainable=[variable(2, [2])])
    workers = [Results([tf.constant([1.0, 2.0])], [], [], [tf.constant(k)]) for k in (1.0, 2.0)]
    contribution = Contribution(told, workers[0])
    assert contribution.servers == [GATE_SERVER, 2]
    assert contribution.specs(GATE_SERVER) == [tf.TensorSpec([16], tf.float32)]
    found = totals(contribution, workers)
    equal(found.gradients[0], [1.0, 2.0])
    assert float(found.reports[0]) == 1.5


def test_a_server_that_gets_a_tables_gradient_only():
    told = objective(trainable=[variable(0, [2]), variable(1, [4, 2])])
    results = Results([tf.constant([1.0, 2.0]), slices([2], [[4.0, 6.0]], [4, 2])], [], [])
    contribution = Contribution(told, results)
    assert contribution.servers == [0, 1]
    assert contribution.specs(1) == [
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, 2], tf.float32),
    ]
    _, mean = totals(contribution, [results, results]).gradients
    equal(dense(mean)[2], [4.0, 6.0])


def test_a_server_that_gets_nothing():
    told = objective(trainable=[variable(1, [2]), variable(3, [1])])
    contribution = Contribution(told, Results([tf.constant([1.0, 2.0]), None], [], []))
    assert contribution.servers == [1]
    assert contribution.specs(0) == contribution.specs(3) == []
    assert contribution.part(contribution.nothing(), 0) == []
    assert contribution.part(contribution.nothing(), 3) == []


def test_nothing_at_all_travels():
    told = objective(trainable=[variable(0, [2])], sums=[variable(1)])
    results = Results([None], [], [None])
    contribution = Contribution(told, results)
    assert contribution.servers == []
    assert contribution.buffers(results) == contribution.nothing() == []
    assert totals(contribution, [results, results]) == Totals([None], [], [None], [])


def test_dense_results_of_one_server_and_dtype_travel_as_one():
    told = objective(
        trainable=[variable(0, [2]), variable(1, [2]), variable(0, [3])],
        state=[variable(0, [4])],
        sums=[variable(0), variable(0, [], tf.int32)],
    )
    results = Results(
        [tf.zeros([2]), tf.zeros([2]), tf.zeros([3])],
        [tf.zeros([4])],
        [tf.zeros([]), tf.constant(0)],
    )
    contribution = Contribution(told, results)
    assert [spec.shape.as_list() for spec in contribution.specs(0)] == [[64], [16]]
    assert [spec.shape.as_list() for spec in contribution.specs(1)] == [[16]]


def test_many_results_travel_in_parts():
    told = objective(
        trainable=[variable(0, [300, 1024]), variable(0, [500, 1024])], sums=[variable(0)]
    )
    values = [tf.fill([300, 1024], 2.0), tf.fill([500, 1024], 4.0)]
    results = Results(values, [], [tf.constant(np.inf)])
    contribution = Contribution(told, results)
    assert len(contribution.specs(0)) == 2
    found = totals(contribution, [results, results])
    equal(found.gradients[0], values[0])
    equal(found.gradients[1], values[1])
    assert found.sums[0] == np.inf
    assert contribution.finite(contribution.buffers(results))
    for bad in range(2):
        gradients = [tf.where(True, np.nan, v) if i == bad else v for i, v in enumerate(values)]
        buffers = contribution.buffers(results._replace(gradients=gradients))
        assert not contribution.finite(buffers)


def test_slices_are_sent_as_the_variable_has_them():
    told = objective(trainable=[variable(0, [4, 2], tf.float64)])
    gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([3], tf.int32))
    results = Results([gradient], [], [])
    contribution = Contribution(told, results)
    ids, rows = contribution.buffers(results)
    assert (ids.dtype, rows.dtype) == (tf.int64, tf.float64)
    (mean,) = totals(contribution, [results]).gradients
    equal(dense(mean)[3], [1.0, 1.0])
