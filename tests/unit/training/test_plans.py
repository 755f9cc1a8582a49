from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from scripts.training import presets
from scripts.training.plans import Plan
from scripts.training.presets import RECIPES

ALL = [(name, model) for name, models in RECIPES.items() for model in models]
RECIPE = presets.find("small_cnn", "small")


def plan(updates: int, updates_per_epoch: int) -> Plan:
    return Plan("small_cnn", RECIPE, 3, updates, 15.0, updates_per_epoch)


def made(plan: Plan, start: int) -> list[tuple[int, int]]:
    """Return the epoch and the number of every update left, as `fit` would make them."""
    numbers = itertools.count(start + 1)
    found = []
    for span in plan.spans(start):
        for epoch in range(span.initial_epoch, span.epochs):
            found += [(epoch, next(numbers)) for _ in range(span.updates)]
    return found


def test_every_update_is_made_once_in_its_epoch() -> None:
    draw = random.Random(0)
    for _ in range(300):
        updates, per_epoch = draw.randint(1, 60), draw.randint(1, 25)
        start = draw.randint(0, updates)
        expected = [((n - 1) // per_epoch, n) for n in range(start + 1, updates + 1)]
        assert made(plan(updates, per_epoch), start) == expected, (updates, per_epoch, start)


@pytest.mark.parametrize(
    ("updates", "per_epoch", "start", "spans"),
    [
        (45, 15, 0, [(0, 3, 15)]),
        (45, 15, 15, [(1, 3, 15)]),
        (45, 15, 20, [(1, 2, 10), (2, 3, 15)]),
        (40, 15, 0, [(0, 2, 15), (2, 3, 10)]),
        (7, 15, 0, [(0, 1, 7)]),
        (45, 15, 45, []),
        (45, 15, 50, []),
    ],
)
def test_epochs_of_a_length_are_one_span(
    updates: int, per_epoch: int, start: int, spans: list[tuple[int, int, int]]
) -> None:
    assert plan(updates, per_epoch).spans(start) == spans


def test_an_epoch_is_a_pass_unless_told() -> None:
    assert Plan.make("small_cnn", RECIPE, 3, 1438).updates_per_epoch == 15  # 1438 / 96 = 14.98
    assert Plan.make("small_cnn", RECIPE, 3, 1438, 4).updates_per_epoch == 4


def test_half_a_pass_is_half_an_epoch() -> None:
    half = Plan.make("small_cnn", dataclasses.replace(RECIPE, passes=0.5), 3, 1438)
    assert half.spans(0) == [(0, 1, 8)]


@pytest.mark.parametrize(("name", "model"), ALL)
def test_json_holds_a_plan(name: str, model: str) -> None:
    recipe = presets.find(model, name)
    written = Plan.make(model, recipe, 7, 12_345)
    read = Plan.from_json(written.to_json())
    assert read == dataclasses.replace(written, recipe=dataclasses.replace(recipe, sources={}))
    assert read.kept() == written.kept()
    assert read.to_json() == written.to_json()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"dataset": "mnist"}, "dataset"),
        ({"batch_size": 16}, "batch_size"),
        ({"ema": 0.9}, "ema"),
        ({"options": {"momentum": 0.5}}, "options"),
        ({"optimizer": "Adam"}, "optimizer"),
        ({"sizes": {"width": 1}}, "sizes"),
        ({"learning_rate": 0.5}, None),
        ({"backups": 5}, None),
        ({"ps": 2}, None),
        ({"passes": 99}, None),
    ],
)
def test_what_a_training_must_keep(change: dict[str, object], name: str | None) -> None:
    kept = Plan.make("small_cnn", RECIPE, 3, 1438).kept()
    changed = Plan.make("small_cnn", dataclasses.replace(RECIPE, **change), 3, 1438).kept()
    assert [key for key in kept if kept[key] != changed[key]] == ([name] if name else [])


def test_a_training_must_keep_n() -> None:
    three, two = (Plan.make("small_cnn", RECIPE, n, 1438).kept() for n in (3, 2))
    assert [key for key in three if three[key] != two[key]] == ["replicas"]
