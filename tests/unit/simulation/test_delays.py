"""Models of how long gradients take: their distributions, their seeds and their arguments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tf_backup.simulation.delays import (
    Constant,
    Exponential,
    Failing,
    OneSlowWorker,
    Pareto,
    Recorded,
    draw,
)
from tf_backup.timeline.schema import CONTRIBUTION, LOST, UPDATE, Settings, Timeline

MODELS = [
    Constant(2.0),
    Exponential(0.1, 1.0),
    Pareto(1.0, 3.0),
    OneSlowWorker(Exponential(0.1, 1.0), worker=1, factor=10.0),
    Recorded([[1.0, 2.0], [3.0], [4.0]]),
    Recorded([[1.0, 2.0], [3.0]], alike=True),
    Failing(Constant(1.0), mean_time_between_failures_s=5.0, repair_s=2.0),
]


def drawn(durations: Any, workers: int = 3, times: int = 20_000, seed: int = 0) -> np.ndarray:
    """Return [times, workers] durations."""
    rng = np.random.default_rng(seed)
    numbers = np.tile(np.arange(workers), times)
    return draw(durations, rng, numbers).reshape([times, workers])


@pytest.mark.parametrize("durations", MODELS, ids=repr)
def test_same_seed_same_durations(durations: Any):
    one, again, other = (drawn(durations, times=50, seed=seed) for seed in (4, 4, 5))
    assert (one == again).all()
    assert (one != other).any() or isinstance(durations, Constant)


def test_constant():
    assert set(drawn(Constant(2.5), times=3).flat) == {2.5}


def test_exponential():
    found = drawn(Exponential(0.5, 2.0))
    assert found.min() >= 0.5
    assert found.mean() == pytest.approx(2.5, rel=0.02)
    assert found.std() == pytest.approx(2.0, rel=0.03)


def test_pareto():
    found = drawn(Pareto(2.0, 3.0))
    assert found.min() >= 2.0
    assert np.mean(found > 4.0) == pytest.approx(0.5**3, rel=0.05)


def test_one_slow_worker():
    found = drawn(OneSlowWorker(Constant(1.5), worker=1, factor=4.0), times=1)
    assert found.tolist() == [[1.5, 6.0, 1.5]]
    nested = OneSlowWorker(OneSlowWorker(Constant(1.0), 0, 2.0), 2, 3.0)
    assert drawn(nested, times=1).tolist() == [[2.0, 1.0, 3.0]]


def test_failures_repeat_the_work():
    """A gradient of length d takes (exp(d / m) - 1) (m + r) on average, with m between failures."""
    d, m, r = 1.0, 2.0, 3.0
    found = drawn(Failing(Constant(d), m, r))
    assert np.mean(found == d) == pytest.approx(math.exp(-d / m), rel=0.02)
    assert found.mean() == pytest.approx((math.exp(d / m) - 1) * (m + r), rel=0.03)


def test_a_gradient_that_is_never_finished_is_refused():
    with pytest.raises(ValueError, match=r"worker 0 failed 10000 times .* Raise it"):
        drawn(Failing(Constant(100.0), 0.01, 0.0), times=1)


def test_recorded_durations_are_of_their_worker():
    found = drawn(Recorded([[1.0, 2.0, 2.0, 2.0], [3.0], [4.0, 5.0]]))
    assert [set(found[:, worker]) for worker in range(3)] == [{1.0, 2.0}, {3.0}, {4.0, 5.0}]
    assert np.mean(found[:, 0] == 2.0) == pytest.approx(0.75, rel=0.05)
    alike = drawn(Recorded([[1.0], [3.0], [4.0, 5.0]], alike=True), workers=7)
    assert all(set(alike[:, worker]) == {1.0, 3.0, 4.0, 5.0} for worker in range(7))


def timeline(rows: list[tuple[int, int, int, int]]) -> Timeline:
    """Return a timeline of (worker, began, arrived, verdict)."""
    found = np.zeros([len(rows)], CONTRIBUTION)
    for index, name in enumerate(("worker", "began", "arrived", "verdict")):
        found[name] = [row[index] for row in rows]
    return Timeline(Settings(2), found, np.zeros([0], UPDATE))


def test_recorded_durations_of_a_timeline():
    rows = [(0, 0, 500_000, 0), (1, 0, 700_000, 1), (0, 10, 20, LOST), (1, 5, 5, 2)]
    found = Recorded.of(timeline(rows))
    assert [row.tolist() for row in found.samples] == [[0.5], [0.7, 1e-6]]
    assert set(drawn(Recorded.of(timeline(rows), alike=True), times=50).flat) == {0.5, 0.7, 1e-6}


def test_workers_that_were_not_measured():
    with pytest.raises(
        ValueError, match=r"worker 2 was not measured, only workers 0 to 1\. .*alike"
    ):
        drawn(Recorded([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="worker 1 has no measured durations"):
        Recorded.of(timeline([(0, 0, 5, 0), (2, 0, 5, 0)]))
    with pytest.raises(ValueError, match="there are no measured durations"):
        Recorded([])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0), r"seconds is 0\.0; it must be above 0 and finite"),
        (lambda: Exponential(-1, 1), r"offset is -1\.0; it must be at least 0"),
        (lambda: Exponential(0, math.nan), "mean is nan"),
        (lambda: Pareto(math.inf, 1), "scale is inf"),
        (lambda: Pareto(1, -2), r"shape is -2\.0; it must be above 0"),
        (lambda: OneSlowWorker(Constant(1), -1, 2), "worker is -1; it must be at least 0"),
        (lambda: OneSlowWorker(Constant(1), 0, 0), "factor is 0"),
        (lambda: Failing(Constant(1), 0, 1), "mean_time_between_failures_s is 0"),
        (lambda: Failing(Constant(1), 1, -1), "repair_s is -1"),
        (lambda: Recorded([[1.0, 0.0]]), r"worker 0 has a duration of 0\.0 s; it must be above 0"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_number_is_refused():
    for value in ("1", None, True):
        with pytest.raises(TypeError, match="seconds must be a number, not"):
            Constant(value)  # type: ignore[arg-type]


def test_an_exponential_time_is_never_zero():
    class Zero(np.random.Generator):
        def exponential(self, scale: Any = 1.0, size: Any = None) -> Any:
            return np.zeros(size)

    found = Exponential(0.0, 1.0)(Zero(np.random.PCG64(0)), np.arange(2))
    assert (found > 0).all()


def test_models_can_be_compared_and_shown():
    assert Exponential(0.1, 1.0) == Exponential(0.1, 1.0)
    assert repr(Pareto(1.0, 2.0)) == "Pareto(scale=1.0, shape=2.0)"
    assert len({Constant(1.0), Constant(1.0), Constant(2.0)}) == 2
    assert not [pair for pair in itertools.combinations(MODELS, 2) if pair[0] == pair[1]]
