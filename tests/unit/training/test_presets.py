from __future__ import annotations

import dataclasses
import pathlib

import keras
import pytest

from scripts.training import presets
from scripts.training.plans import Plan
from scripts.training.presets import RECIPES
from scripts.training.recipe import Constant, Recipe

ALL = [(name, model) for name, models in RECIPES.items() for model in models]


def tiny(**changes: object) -> Recipe:
    recipe = Recipe("digits", "SGD", 0.1, batch_size=10, replicas=4, backups=1, passes=3)
    return dataclasses.replace(recipe, **changes)


@pytest.mark.parametrize(
    "recipe", [tiny(), tiny(passes=None, updates=30)], ids=["by passes", "by updates"]
)
def test_half_as_many_replicas_make_twice_as_many_updates(recipe: Recipe) -> None:
    assert recipe.total_updates(400, 4) == 30
    assert recipe.total_updates(400, 2) == 60
    assert recipe.total_updates(400, 1) == 120


def test_half_as_many_replicas_see_the_same_data() -> None:
    paper = presets.find("inception_v3", "paper")
    for replicas in (25, 50, 100, 200):
        examples = paper.total_updates(1_281_167, replicas) * replicas * paper.batch_size
        assert examples / 1_281_167 == pytest.approx(172, rel=1e-4)


def test_the_papers_inception_makes_the_papers_updates() -> None:
    paper = presets.find("inception_v3", "paper")
    assert paper.total_updates(1_281_167, 50) == pytest.approx(137.5e3, rel=0.003)


def test_a_part_of_a_pass_counts() -> None:
    assert tiny(passes=0.5).total_updates(400, 4) == 5
    assert tiny(passes=0.07).total_updates(4000, 4) == 7  # 0.07 * 100 is a little more than 7.
    assert tiny(passes=0.01).total_updates(400, 4) == 1
    assert tiny(passes=1).total_updates(401, 4) == 11


def test_learning_rates_are_by_replica_if_the_recipe_says_so() -> None:
    assert tiny().initial_learning_rate(8) == pytest.approx(0.1)
    assert tiny(per_replica=True).initial_learning_rate(8) == pytest.approx(0.8)


@pytest.mark.parametrize("model", RECIPES["paper"])
def test_every_setting_of_the_paper_has_a_source(model: str) -> None:
    recipe = presets.find(model, "paper")
    described = recipe.describe()
    assert {name for name, _, _ in described} >= {"dataset", "length", "optimizer", "clip", "ema"}
    assert not [name for name, _, source in described if not source]
    assert set(recipe.sources) <= {name for name, _, _ in described}


@pytest.mark.parametrize(("name", "model"), ALL)
def test_settings_are_shown(name: str, model: str) -> None:
    recipe = presets.find(model, name)
    shown = {name: value for name, value, _ in recipe.describe()}
    assert shown["replicas"] == f"N = {recipe.replicas}, b = {recipe.backups}, {recipe.ps} ps"
    assert f"{recipe.learning_rate:g}" in shown["learning_rate"]
    assert ("x N" in shown["learning_rate"]) == recipe.per_replica
    assert isinstance(recipe.decay, Constant) == (shown["learning_rate"][-8:] == "constant")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("name", "model"), ALL)
def test_builds_its_optimizer(name: str, model: str, asynchronous: bool) -> None:
    recipe = presets.find(model, name)
    optimizer = Plan.make(model, recipe, 4, 10_000).optimizer(asynchronous)
    assert type(optimizer) is getattr(keras.optimizers, recipe.optimizer)
    clip = recipe.clip
    if asynchronous and clip is None:
        clip = recipe.clip_async
    assert optimizer.global_clipnorm == clip
    assert optimizer.use_ema == (recipe.ema is not None)
    assert not optimizer.use_ema or optimizer.ema_momentum == recipe.ema
    assert {key: getattr(optimizer, key) for key in recipe.options} == recipe.options
    assert float(optimizer.learning_rate) == pytest.approx(recipe.initial_learning_rate(4))


def test_only_asynchronous_inception_clips() -> None:
    plan = Plan.make("inception_v3", presets.find("inception_v3", "paper"), 50, 1_281_167)
    assert plan.optimizer().global_clipnorm is None
    assert plan.optimizer(asynchronous=True).global_clipnorm == 10.0


def test_unknown_models_and_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match="--model is 'resnet'; the known ones are small_cnn, mn"):
        presets.find("resnet", "small")
    with pytest.raises(ValueError, match=r"--recipe is 'big', but draw .* has small and paper\."):
        presets.find("draw", "big")
    with pytest.raises(ValueError, match=r"never published\); it has small\."):
        presets.find("char_lstm", "paper")


@pytest.mark.parametrize("model", presets.MODELS)
def test_the_documentation_has_the_recipes_of_every_model(model: str) -> None:
    docs = pathlib.Path(__file__).parents[3] / "docs" / "models.md"
    text = docs.read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{model}` |")]
    small, paper = row.split("|")[3:5]
    assert small.strip() == RECIPES["small"][model].dataset
    assert paper.strip() == (RECIPES["paper"][model].dataset if model in RECIPES["paper"] else "")
