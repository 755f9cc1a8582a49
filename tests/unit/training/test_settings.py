from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from scripts import flag_values
from scripts.training.settings import Settings
from scripts.training.training_flags import TrainingFlags

Parse = Callable[..., Settings]


@pytest.fixture
def parse() -> Iterator[Parse]:
    """Yield a function from flags to settings, which starts from the default flags."""
    with flagsaver.flagsaver():

        def settings(*given: str) -> Settings:
            flags.FLAGS.unparse_flags()
            flags.FLAGS(["train.py", *given])
            return Settings.of(flag_values.read(TrainingFlags))

        yield settings


def test_without_flags_the_recipe_is_as_it_is(parse: Parse) -> None:
    settings = parse()
    assert (settings.policy.replicas, settings.policy.backups) == (3, 1)
    assert settings.recipe.passes == 20
    assert settings.delays == [0.0] * 4


@pytest.mark.parametrize("replicas", [1, 2, 3, 6])
def test_another_n_keeps_the_passes(parse: Parse, replicas: int) -> None:
    recipe = parse("--model=draw", f"--replicas={replicas}").recipe
    assert recipe.total_updates(60_000, replicas) == 600 * 2 // replicas


@pytest.mark.parametrize("strategy", ["ps", "one_device"])
def test_updates_are_just_as_many(parse: Parse, strategy: str) -> None:
    flags = [f"--strategy={strategy}", "--updates=70"]
    settings = parse(*flags, *(["--replicas=5"] if strategy == "ps" else []))
    assert settings.recipe.total_updates(1438, settings.policy.replicas) == 70


def test_epochs_are_passes(parse: Parse) -> None:
    settings = parse("--model=draw", "--epochs=0.5", "--replicas=4")
    assert settings.recipe.total_updates(1280, 4) == 5


def test_one_device_makes_updates_of_one_gradient(parse: Parse) -> None:
    settings = parse("--strategy=one_device")
    assert not settings.distributed
    assert settings.policy.workers == 1
    assert settings.recipe.total_updates(1438, 1) == 899


def test_flags_change_the_recipe(parse: Parse) -> None:
    settings = parse(
        "--model=inception_v3", "--recipe=paper", "--learning_rate=0.5", "--batch_size=8",
        "--ps_tasks=2", "--ema=0", "--dataset=cifar10", "--replicas=10", "--backups=0",
    )  # fmt: skip
    recipe = settings.recipe
    assert recipe.initial_learning_rate(10) == 0.5
    assert (recipe.batch_size, recipe.ps, recipe.ema, recipe.dataset) == (8, 2, None, "cifar10")
    assert recipe.data == {}  # The image size of imagenet2012 is no setting of cifar10.
    assert (settings.policy.replicas, settings.policy.backups) == (10, 0)


def test_the_recipes_own_data_set_keeps_its_arguments(parse: Parse) -> None:
    settings = parse("--model=inception_v3", "--recipe=paper", "--dataset=imagenet2012")
    assert settings.recipe.data == {"image_size": 299}


def test_other_text_keeps_words_and_steps(parse: Parse) -> None:
    settings = parse("--model=word_lstm", "--recipe=paper", "--dataset=topics")
    assert settings.recipe.data == {"of_words": True, "steps": 20, "vocabulary": 793_470}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--replicas=0"], r"--replicas is 0; it must be at least 1"),
        (["--backups=-1"], r"--backups is -1; it must be at least 0"),
        (["--seed=-1"], r"--seed is -1; it must be at least 0"),
        (["--max_staleness=-1"], r"--max_staleness is -1; it must be at least 0"),
        (["--ps_tasks=0"], r"--ps_tasks is 0; it must be at least 1"),
        (["--epochs=0"], r"--epochs is 0.0; it must be above 0"),
        (["--epochs=inf"], r"--epochs is inf; it must be above 0 and finite"),
        (["--learning_rate=nan"], r"--learning_rate is nan; it must be above 0"),
        (["--checkpoint_minutes=-1"], r"--checkpoint_minutes is -1.0; it must be at least 0"),
        (["--updates_per_epoch=0"], r"--updates_per_epoch is 0; it must be at least 1"),
        (["--ema=1"], r"--ema is 1.0; it must be 0 or above, and below 1"),
        (["--ema=nan"], r"--ema is nan"),
        (["--epochs=1", "--updates=1"], "give one"),
        (["--recipe=big"], "--recipe is 'big'"),
        (["--summary_json=/nowhere/a.json"], "there is no directory /nowhere. Make it first"),
        (["--recipe=paper"], r"no experiment of the paper has it\); it has small"),
        (["--delay=4:1"], "delay names worker 4, but the workers are 0 to 3"),
        (["--strategy=one_device", "--delay=0:1"], r"--delay is \['0:1'\], but .*no workers"),
        (["--start_timeout_s=0"], r"--start_timeout_s is 0.0; it must be above 0"),
        (["--chief_timeout_s=nan"], r"--chief_timeout_s is nan; it must be above 0"),
        (["--restarts=-1"], r"--restarts is -1; it must be at least 0"),
        (["--worker_restarts=-1"], r"--worker_restarts is -1; it must be at least 0"),
        (["--strategy=one_device", "--worker_timeout_s=9"], "--worker_timeout_s is 9.0, but"),
        (["--strategy=one_device", "--replicas=3"], "--replicas is 3, but .*no workers"),
    ],
)
def test_nonsense_is_refused(parse: Parse, flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(*flags)


def test_a_summary_that_could_not_be_written_is_refused_before_training(
    parse: Parse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be written\. Name another directory"):
        parse(f"--summary_json={tmp_path}/a.json")


def test_arguments_of_the_strategy_are_the_library_s_unless_given(parse: Parse) -> None:
    assert parse().of_strategy == {}
    timeouts = {"worker_timeout_s": 5.0, "server_timeout_s": 7.5, "start_timeout_s": 600.0}
    expected = {**timeouts, "chief_timeout_s": 9.0, "worker_restarts": 0}
    given = parse(*(f"--{name}={value}" for name, value in expected.items()))
    assert given.of_strategy == expected


def test_without_a_summary_the_working_directory_may_be_read_only(
    parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    parse()


def test_multi_worker_mirrored_is_refused_with_the_reason(parse: Parse) -> None:
    with pytest.raises(ValueError, match="Keras 3") as caught:
        parse("--strategy=multi_worker_mirrored")
    assert "PerReplica" in str(caught.value)
    assert "--strategy=ps --backups=0" in str(caught.value)


def test_only_a_local_cluster_has_networks_to_cut(
    parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse("--cuttable_network").given.cuttable_network
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {}}')
    with pytest.raises(ValueError, match=r"--cuttable_network is for a local cluster, but this"):
        parse("--cuttable_network")
    with pytest.raises(ValueError, match=r"--cuttable_network is True, but --strategy=one_device"):
        monkeypatch.delenv("TF_CONFIG")
        parse("--cuttable_network", "--strategy=one_device")
