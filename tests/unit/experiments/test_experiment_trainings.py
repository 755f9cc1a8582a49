"""Trainings of experiments on virtual and on real workers: what is measured, and who is first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from scripts.experiments import (
    auto_replicas,
    digit_images,
    figure8,
    result_file,
    time_to_accuracy,
    time_to_accuracy_real,
    virtual_training,
    workshop,
)
from scripts.experiments.definition import Row
from scripts.experiments.digit_images import Subset
from scripts.experiments.spreads import Spread, select
from scripts.experiments.straggler_fit import fitted
from scripts.experiments.time_to_accuracy import Best, best, sooner
from scripts.experiments.virtual_training import Problem
from tf_backup.keras.simulated import virtual_cluster
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Durations, Exponential, Pareto
from tf_backup.simulation.virtual_gate import NoWork, VirtualGate

pytestmark = pytest.mark.slow  # Computes for seconds.

RESULTS = Path(__file__).parents[3] / "results"
PROBLEM = Problem(Subset("digits", 200, 100, ()), 4, 4)


def train(optimizer: Any, policy: BackupPolicy, **options: Any) -> list[virtual_training.Tested]:
    images = digit_images.standardized(PROBLEM.data, None)
    settings: dict[str, Any] = {"every": 2, "updates": 6, "seed": 1, **options}
    return virtual_training.train(
        PROBLEM, images, optimizer, policy, Exponential(1.0, 0.3), **settings
    )


def test_images_are_standardized_by_the_training_images() -> None:
    images = digit_images.standardized(PROBLEM.data, None)
    assert images.x.mean() == pytest.approx(0, abs=1e-5)
    assert images.x.std() == pytest.approx(1, abs=1e-5)
    raw = digit_images.load(PROBLEM.data, None)
    scaled = (raw.test_x - raw.x.mean()) / raw.x.std()
    assert images.test_x == pytest.approx(scaled)


def test_training_is_tested_now_and_then() -> None:
    tests = train(keras.optimizers.SGD(0.1), BackupPolicy(2, 1), updates=5)
    assert [test.updates for test in tests] == [2, 4, 6]
    assert 0 < tests[0].seconds < tests[1].seconds < tests[2].seconds
    assert all(0 <= test.error <= 1 for test in tests)


def test_training_ends_at_the_error() -> None:
    assert len(train(keras.optimizers.SGD(0.1), BackupPolicy(2, 1), until=1.0)) == 1


def test_training_ends_at_nan() -> None:
    tests = train(keras.optimizers.SGD(1e30), BackupPolicy(2, 1), updates=40)
    assert len(tests) < 20
    assert tests[-1].error == 1.0


def test_staleness_is_known_before_the_training() -> None:
    policy, durations = BackupPolicy.asynchronous(5), Pareto(1.0, 2.0)
    images = digit_images.standardized(PROBLEM.data, None)
    cluster = virtual_cluster(
        virtual_training.network(PROBLEM, images, keras.optimizers.SGD(0.1), 3),
        policy,
        durations,
        digit_images.batches(images, 4, 3),
        seed=3,
    )
    found = [update.staleness[0] for update in cluster.run(30)]
    assert found == virtual_training.staleness_of(policy, durations, 30, 3)
    assert max(found) > 4


def test_schedule_has_a_rate_for_each_update() -> None:
    optimizer = keras.optimizers.SGD(virtual_training.schedule([1.0, 0.5, 0.25]))
    weight = keras.Variable(0.0)
    optimizer.build([weight])
    steps = []
    for _ in range(3):
        before = float(weight)
        optimizer.apply([keras.ops.ones([])])
        steps.append(before - float(weight))
    assert steps == pytest.approx([1.0, 0.5, 0.25])


# --- Who is first


def row(method: str, factor: float, seed: int, seconds: float) -> Row:
    return {"method": method, "factor": factor, "seed": seed, "seconds": seconds}


def test_best_rate_is_the_fastest_that_all_seeds_reach() -> None:
    rows = [
        *(row("async", 0.25, seed, 9.0 + seed) for seed in (1, 2)),
        *(row("async", 0.5, seed, 5.0 + seed) for seed in (1, 2)),
        *(row("async", 1.0, seed, 3.0 if seed == 1 else -1) for seed in (1, 2)),
        row("sync", 1.0, 1, -1),
    ]
    assert best(rows, "async") == Best("async", 0.5, Spread.of([6.0, 7.0]))
    assert best(rows, "sync") == Best("sync", 1.0, None)
    assert best(rows, "sync").text == "sync: not reached"


def test_sooner_is_by_more_than_the_larger_deviation() -> None:
    def found(mean: float, deviation: float) -> Best:
        return Best("sync", 1.0, Spread(mean, deviation, 3))

    never = Best("async", 1.0, None)
    assert sooner(found(10, 1), found(13, 2))
    assert not sooner(found(10, 1), found(13, 4))
    assert not sooner(found(13, 1), found(10, 1))
    assert sooner(found(10, 1), never)
    assert not sooner(never, found(10, 1))
    assert not sooner(never, never)


def test_error_is_reached_at_the_first_test() -> None:
    rows = [
        {"method": "b = 0", "seed": seed, "seconds": float(t), "error": error / seed}
        for seed in (1, 2)
        for t, error in enumerate((0.9, 0.3, 0.1, 0.2))
    ]
    assert time_to_accuracy_real.times(rows, "b = 0", 0.1) == Spread.of([2.0, 2.0])
    assert time_to_accuracy_real.times(rows, "b = 0", 0.15) == Spread.of([2.0, 1.0])
    assert time_to_accuracy_real.times(rows, "b = 0", 0.05) is None  # One seed never does.


def test_auto_is_compared_with_the_best_fixed_split() -> None:
    def rows(auto: float) -> list[Any]:
        speeds = {"N = 4": (10.0, 12.0), "N = 3": (20.0, 20.0), "auto": (auto - 1, auto + 1)}
        return [
            {"delays": "tail", "split": split, "seed": seed, "gradients_per_s": speed}
            for split, of_seeds in speeds.items()
            for seed, speed in enumerate(of_seeds)
        ]

    (enough,), (less,) = auto_replicas.claims(rows(18.0)), auto_replicas.claims(rows(17.9))
    assert (enough.agrees, less.agrees) == (True, False)
    assert (
        enough.ours == "auto: 18.0 ± 1.4, 0.90 times the best; N = 4: 11.0 ± 1.4, N = 3: 20.0 ± 0.0"
    )


def test_third_pattern_is_slow_from_half_way_on() -> None:
    settings = auto_replicas.Splits(workers=4, least=2, seconds=13.0)
    durations = auto_replicas.patterns(settings)["slow from half-way on"]
    rng = np.random.default_rng(1)
    for worker, slow in ((2, False), (3, True)):
        seconds = durations(rng, np.full(200, worker))
        assert (seconds[:100] <= 0.07).all()
        assert ((seconds[100:] >= 0.48) == slow).all()


# --- Policies


@pytest.mark.parametrize(("workers", "backups"), [(8, 1), (16, 1), (32, 2), (53, 3), (106, 6)])
def test_backups_are_6_percent(workers: int, backups: int) -> None:
    policy = figure8.policy_of({"workers": workers, "method": "sync"})
    assert (policy.workers, policy.backups) == (workers, backups)
    assert figure8.policy_of({"workers": workers, "method": "async"}).workers == workers


@pytest.mark.parametrize(("replicas", "backups"), [(3, 1), (50, 2), (100, 5)])
def test_backups_of_the_workshop_version_are_5_percent(replicas: int, backups: int) -> None:
    for method, spare in (("sync", 0), ("sync with backups", backups)):
        policy = workshop.policy_of({"workers": replicas, "method": method})
        assert policy == BackupPolicy(replicas, spare)
    free = workshop.policy_of({"workers": replicas, "method": "async"})
    assert free == BackupPolicy.asynchronous(replicas)


def test_methods_have_the_same_number_of_workers() -> None:
    settings = time_to_accuracy.EXPERIMENT.at("small")
    found = time_to_accuracy.methods(settings)
    assert {method.policy.workers for method in found.values()} == {8}
    assert len([name for name in found if name.startswith("sync")]) * 2 == len(found)


# --- Committed results, as far as they need no data


def released(durations: Durations, policy: BackupPolicy, updates: int, seed: int) -> float:
    gate = VirtualGate(durations, policy, 0.0, seed)
    return [gate.update(NoWork()).time for _ in range(updates)][-1]


def test_committed_times_to_accuracy_can_be_repeated() -> None:
    settings = time_to_accuracy.EXPERIMENT.at("small")
    rows = result_file.read(RESULTS / "time_to_accuracy.csv")
    for kept in select(rows, seed=1, factor=0.5):
        policy = time_to_accuracy.methods(settings)[kept["method"]].policy
        durations = time_to_accuracy.delays(settings)[kept["delays"]]
        if kept["seconds"] >= 0:
            again = released(durations, policy, kept["updates"], 1)
            assert kept["seconds"] == pytest.approx(again, rel=1e-4)


def test_committed_times_of_figure8_can_be_repeated() -> None:
    rows = result_file.read(RESULTS / "figure8.csv")
    for kept in select(rows, seed=1, workers=8):
        again = released(fitted(), figure8.policy_of(kept), kept["updates"], 1)
        assert kept["seconds"] == pytest.approx(again, rel=1e-4)
