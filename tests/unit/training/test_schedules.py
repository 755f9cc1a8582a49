from __future__ import annotations

import math
from typing import Any

import keras
import pytest

from scripts.training import presets
from scripts.training.plans import Plan
from scripts.training.recipe import Cosine, LinearAtEnd
from scripts.training.schedules import schedule

IMAGENET, CIFAR, MNIST = 1_281_167, 50_000, 60_000


def plan(model: str, replicas: int, examples: int) -> Plan:
    return Plan.make(model, presets.find(model, "paper"), replicas, examples)


def rate_of(plan: Plan) -> Any:
    """Return a plan's learning rate as a function of the number of updates made."""
    optimizer = plan.optimizer()

    def rate(updates: int) -> float:
        optimizer.iterations.assign(updates)
        return float(optimizer.learning_rate)

    return rate


@pytest.mark.parametrize("replicas", [50, 100])
def test_inceptions_is_the_papers_formula(replicas: int) -> None:
    rate = rate_of(plan("inception_v3", replicas, IMAGENET))
    mini_batches = IMAGENET / 32  # T
    for t in (0, 1, 1000, 40_000, 68_000):
        formula = 0.045 * replicas * 0.94 ** (t * replicas / (2 * mini_batches))
        assert rate(t) == pytest.approx(formula, rel=1e-5)


def test_asynchronous_inceptions_does_not_grow_with_the_workers() -> None:
    rate = rate_of(plan("inception_v3", 1, IMAGENET))
    assert rate(0) == pytest.approx(0.045)
    assert rate(2 * round(IMAGENET / 32)) == pytest.approx(0.045 * 0.94, rel=1e-4)


def test_pixelcnns_falls_to_3e_6_in_200_000_updates() -> None:
    made = plan("pixelcnn", 15, CIFAR)
    assert made.updates == 200_000
    rate = rate_of(made)
    assert rate(0) == pytest.approx(1e-4)
    assert rate(200_000) == pytest.approx(3e-6)
    assert rate(100_000) == pytest.approx(math.sqrt(1e-4 * 3e-6), rel=1e-4)


def test_mnists_is_constant_then_linear_to_0_in_the_last_10_of_25_epochs() -> None:
    made = plan("mnist_cnn", 1, MNIST)
    epoch = made.updates_per_epoch
    assert (epoch, made.updates) == (1875, 25 * 1875)
    rate = rate_of(made)
    for epochs in (0, 7, 15):
        assert rate(epochs * epoch) == pytest.approx(0.1)
    for epochs in (16, 20, 24):
        assert rate(epochs * epoch) == pytest.approx(0.1 * (25 - epochs) / 10, rel=1e-4)
    assert rate(25 * epoch) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("model", ["inception_v3", "pixelcnn", "mnist_cnn"])
def test_another_n_keeps_the_rate_at_the_same_part_of_the_data(model: str) -> None:
    few, many = plan(model, 8, IMAGENET), plan(model, 16, IMAGENET)
    scale = 2 if few.recipe.per_replica else 1
    for t in (0, 3000, 20_000):
        assert rate_of(many)(t) == pytest.approx(scale * rate_of(few)(2 * t), rel=1e-4)


def test_linear_at_end_stays_at_0() -> None:
    falling = schedule(LinearAtEnd(0.5), 0.2, 10, 5.0)
    assert [float(falling(t)) for t in (5, 10, 11, 99)] == pytest.approx([0.2, 0, 0, 0], abs=1e-7)


def test_linear_at_end_survives_serialization() -> None:
    falling = schedule(LinearAtEnd(0.5), 0.2, 10, 5.0)
    serialized = keras.optimizers.schedules.serialize(falling)
    again = keras.optimizers.schedules.deserialize(serialized)
    assert [float(again(t)) for t in range(12)] == [float(falling(t)) for t in range(12)]


def test_half_a_cosine() -> None:
    falling = schedule(Cosine(), 0.2, 10, 5.0)
    assert [float(falling(t)) for t in (0, 5, 10)] == pytest.approx([0.2, 0.1, 0.0], abs=1e-7)
