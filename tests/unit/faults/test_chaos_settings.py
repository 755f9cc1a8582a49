"""Settings of scripts/chaos.py: the flags that they give to train.py, and what they judge by."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.faults.chaos_settings import ChaosSettings

DEFAULTS: dict[str, Any] = {
    "fault": [],
    "random_faults": 0,
    "mean_seconds_between_faults": 5.0,
    "random_actions": ["kill"],
    "random_jobs": ["worker"],
    "seed": 0,
    "model": "small_cnn",
    "replicas": 3,
    "backups": 2,
    "ps_tasks": 1,
    "on_shortage": None,
    "updates": None,
    "step_s": 0.1,
    "log_dir": None,
    "checkpoint_s": 30.0,
    "worker_timeout_s": 5.0,
    "server_timeout_s": 10.0,
    "max_pause_s": None,
    "max_restart_s": 120.0,
    "min_speed": None,
    "tolerance": 0.02,
    "baseline": True,
    "csv": None,
}


def settings(**changes: Any) -> ChaosSettings:
    return ChaosSettings(**{**DEFAULTS, **changes})


def test_training_has_the_flags_of_the_cluster() -> None:
    flags = settings(replicas=1, backups=1).training_flags(500, "logs")
    for flag in ("--replicas=1", "--updates=500", "--updates_per_epoch=200", "--delay=1:0.1"):
        assert flag in flags
    assert "--delay=2:0.1" not in flags
    assert flags[-2:] == ["--log_dir=logs", "--checkpoint_minutes=0.5"]


@pytest.mark.parametrize("on_shortage", ["wait", "shrink", "fill"])
def test_training_does_on_shortage_what_the_flag_says(on_shortage: str) -> None:
    found = settings(on_shortage=on_shortage)
    assert f"--on_shortage={on_shortage}" in found.training_flags(500, None)
    assert found.judge.shrinks == (on_shortage == "shrink")


@pytest.mark.parametrize(
    ("changes", "cuts"),
    [
        ({"fault": ["kill worker 1 at step 5"]}, False),
        ({"fault": ["kill worker 1 at step 5", "cut worker 1 for 5 s at step 9"]}, True),
        ({"random_faults": 20, "random_actions": ["kill", "freeze"]}, False),
        ({"random_faults": 20, "random_actions": ["kill", "cut"]}, True),
    ],
)
def test_networks_can_be_cut_if_a_fault_does_it(changes: dict[str, Any], cuts: bool) -> None:
    assert ("--cuttable_network" in settings(**changes).training_flags(500, None)) == cuts


def test_only_networks_of_workers_are_cut() -> None:
    with pytest.raises(ValueError, match=r"'cut' and --random_jobs has worker,ps, but only net"):
        settings(random_actions=["cut"], random_jobs=["worker", "ps"])


def test_without_on_shortage_the_default_is_that_of_training() -> None:
    assert not [each for each in settings().training_flags(500, None) if "shortage" in each]


@pytest.mark.parametrize("on_shortage", ["wait", "shrink", "fill"])
def test_on_shortage_changes_no_random_fault(on_shortage: str) -> None:
    changed = settings(random_faults=50, on_shortage=on_shortage)
    assert changed.planned() == settings(random_faults=50).planned()


def test_a_pause_may_be_as_long_as_it_takes_to_give_a_worker_up() -> None:
    assert settings().judge.max_pause_s == 8.0
    assert settings(max_pause_s=2.5).judge.max_pause_s == 2.5


@pytest.mark.parametrize(
    ("changes", "speed"),
    [
        ({"random_faults": 300}, 0.7),
        ({"random_faults": 300, "min_speed": 0.5}, 0.5),
        ({"random_faults": 300, "backups": 0}, 0.0),  # There, every fault stops the training.
        ({"random_faults": 300, "random_jobs": ["worker", "chief"]}, 0.0),
        ({"random_faults": 300, "fault": ["kill chief at step 5"]}, 0.0),
        ({"fault": ["kill worker 1 at step 5"]}, 0.0),
    ],
)
def test_speed_counts_where_backup_workers_make_up_for_all_faults(
    changes: dict[str, Any], speed: float
) -> None:
    assert settings(**changes).judge.min_speed == speed


@pytest.mark.parametrize("name", ["min_speed", "tolerance"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_limits_are_numbers(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"--{name} is {value}; it must be at least 0 and finite"):
        settings(**{name: value})
