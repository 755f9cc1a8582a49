"""Numbers that experiments derive from their simulations and trainings."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.experiments import catalogue, draw_workers, figure7, figure9, stability, table1
from scripts.experiments.definition import Row
from scripts.experiments.figure6 import Curve
from scripts.experiments.spreads import Spread
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Constant, Exponential
from tf_backup.simulation.timing import simulate


def test_power_law_goes_through_two_points_and_smooths_more() -> None:
    exact = Curve("two", ((50, 100.0), (100, 50.0)))
    assert exact.updates(50) == pytest.approx(100.0)
    assert exact.updates(200) == pytest.approx(25.0)
    noisy = Curve("three", ((1, 2.0), (10, 1.0), (100, 2.0)))
    assert noisy.updates(1) == pytest.approx(noisy.updates(100))


def test_ages_are_those_of_a_workers_own_pass() -> None:
    settings, same = table1.Layers(workers=10, layers=5, gradients=20), Constant(1.0)
    assert set(table1.ages(settings, 0, same, 1)) == {9}  # All others update it once in a pass.


def test_lowest_layer_is_as_stale_as_one_version_of_all_layers() -> None:
    settings, random = table1.Layers(10, 5, 400), Exponential(0.5, 0.5)
    policy = BackupPolicy.asynchronous(10)
    expected = simulate(random, policy, 4000).mean_staleness
    assert table1.ages(settings, 0, random, 1).mean() == pytest.approx(expected, abs=0.1)
    # It is read at the end of the forward pass, and sent at the beginning of the backward pass.
    highest = table1.ages(settings, 4, random, 1).mean()
    assert highest == pytest.approx(expected / 5, abs=0.1)


def test_largest_stable_rate_is_stable_with_all_seeds() -> None:
    rows = [
        {"kind": "synchronous", "rate": rate, "seed": seed, "stable": stable}
        for rate, both in ((0.1, (0, 1)), (1.0, (1, 1)), (10.0, (1, 0)))
        for seed, stable in enumerate(both)
    ]
    assert stability.largest_stable(rows, "synchronous") == 1.0
    assert stability.largest_stable(rows[-2:], "synchronous") == 0.0


def test_loss_of_logits_is_in_nats_and_finite() -> None:
    logits = np.array([[[0.0, 0.0], [3.0, 0.0]]], np.float32)
    expected = (np.log(2) + np.log(1 + np.exp(-3))) / 2
    assert stability.loss_of(logits, np.array([[1, 0]])) == pytest.approx(expected)
    logits[0, 0, 0] = np.nan
    assert stability.loss_of(logits, np.array([[1, 0]])) == 1e3
    # A text in which one of two characters never occurs, apart from the one that is added.
    train, held_out = np.zeros(98, np.int32), np.array([0, 1])
    expected = -(np.log(0.99) + np.log(0.01)) / 2
    assert stability.frequency_nats(train, held_out, 2) == pytest.approx(expected)


def test_convergence_is_at_the_best_precision() -> None:
    rows = [{"update": u, "precision": p} for u, p in ((5, 0.3), (10, 0.95), (15, 0.95), (20, 0.9))]
    assert (figure7.best(rows), figure7.converged(rows)) == (0.95, 10)
    assert (figure7.reached(rows, 0.9), figure7.reached(rows, 0.99)) == (10, 20)


def test_low_precision_is_relative_to_the_quarters_best() -> None:
    precisions = {
        1: {0.25: (0.5, 0.911), 1.0: (0.89, 0.9)},
        2: {0.25: (0.4, 0.91), 1.0: (0.8, 0.8)},
    }
    rows = [
        {"seed": seed, "factor": factor, "update": 10 * (i + 1), "precision": precision}
        for seed, of_factor in precisions.items()
        for factor, found in of_factor.items()
        for i, precision in enumerate(found)
    ]
    assert figure7.low_precision(rows[:4]) == pytest.approx(0.9)
    assert figure7.soon(rows, 0.25) == (Spread(20.0, 0.0, 2), 2)
    assert figure7.soon(rows, 1.0) == (Spread(20.0, 0.0, 2), 1)


def test_time_to_the_single_workers_loss_is_relative_to_its_own() -> None:
    losses = {
        ("one worker", 1): {1: (3.0, 2.0, 2.5), 2: (3.0, 2.5, 2.4)},
        ("synchronous", 8): {1: (2.0, 1.0, 1.0), 2: (2.6, 2.5, 2.41)},
    }
    rows = [
        {"kind": kind, "workers": workers, "seed": seed, "seconds": 10.0 * (i + 1), "nats": nats}
        for (kind, workers), of_seed in losses.items()
        for seed, found in of_seed.items()
        for i, nats in enumerate(found)
    ]
    assert figure9.shares(rows, "synchronous", 8) == [0.5, float("inf")]


def drawings(kind: str, rate: float, **of_seed: tuple[float, ...]) -> list[Row]:
    return [
        {"kind": kind, "rate": rate, "seed": int(seed[1:]), "seconds": 10.0 * n, "gradients": n}
        | {"nats": nats}
        for seed, found in of_seed.items()
        for n, nats in enumerate(found, 1)
    ]


def test_drawing_is_at_its_best_with_the_fastest_rate_that_always_reaches_the_loss() -> None:
    rows = [
        *drawings("one worker", 0.1, s1=(8.0, 7.0, 6.0), s2=(8.5, 7.0, 6.0)),
        *drawings("one worker", 1.0, s1=(9.0, 9.0, 9.0), s2=(8.0, 9.0, 9.0)),
        *drawings("synchronous", 0.1, s1=(9.0, 8.0, 7.0), s2=(8.0, 7.0, 6.0)),
        *drawings("synchronous", 1.0, s1=(9.0, 9.0, 8.0), s2=(9.0, 9.0, 8.0)),
        *drawings("asynchronous", 0.1, s1=(9.0, 9.0, 9.0), s2=(8.0, 8.0, 7.0)),
    ]
    assert [draw_workers.goal([r for r in rows if r["seed"] == seed]) for seed in (1, 2)] == [8, 8]
    sync = draw_workers.best(rows, "synchronous")
    assert sync == (Spread.of([20.0, 10.0]), 0.1, 1.0)
    assert sync.share_of(draw_workers.best(rows, "one worker")) == pytest.approx(1.0)
    never = draw_workers.best(rows, "asynchronous")
    assert (never.seconds, never.largest, never.text) == (None, 0.0, "not always reached")
    assert never.share_of(sync) == sync.share_of(never) == float("inf")


def test_images_of_drawings_are_small_and_binary() -> None:
    images = np.array([[0.9, 0.9, 0.0, 0.4], [0.9, 0.0, 0.4, 0.4]]).reshape([1, 2, 4, 1])
    assert draw_workers.binary(images, 2).tolist() == [[[[1.0], [0.0]]]]


def test_backup_workers_slow_gradients_down_by_the_network_time() -> None:
    settings = catalogue.find("backup_sweep").at("tiny")

    def median(network_ms: float, backups: int) -> float:
        point = {"delays": "exponential", "network_ms": network_ms, "backups": backups}
        measure = catalogue.find("backup_sweep").measure
        return float(measure(settings, point, 1, None, lambda part: None)[0]["median_step_s"])

    assert median(100.0, 2) == pytest.approx(median(0.0, 2) + 0.2)
    assert median(100.0, 0) == median(0.0, 0)
