"""Experiments: points, results on disk, resuming, claims, and the committed results."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.experiments import (
    canvas,
    catalogue,
    claims_table,
    figure5,
    measuring,
    result_file,
)
from scripts.experiments.definition import Experiment, Row
from scripts.experiments.result_file import MixedResults, ResultFile
from scripts.experiments.spreads import Spread, by_seed
from scripts.experiments.straggler_fit import SHAPES, fitted, independent
from scripts.experiments.time_left import TimeLeft
from scripts.training import presets
from scripts.training.plans import Plan
from tests.extra import with_extra

pytestmark = pytest.mark.slow  # Computes for seconds.

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
ENVIRONMENT = {**dict.fromkeys(result_file.VERSION, "1"), "commit": "12e4567", "cores": 2}

names = pytest.mark.parametrize("name", catalogue.NAMES)
OF_PROCESSES = ("time_to_accuracy_real", "auto_replicas")  # See test_real_experiments.py.


def results(folder: Path, experiment: Experiment, replace: bool = False, **changed: Any) -> Any:
    environment = {**ENVIRONMENT, **changed}
    path = folder / f"{experiment.name}.csv"
    settings = experiment.at("tiny")
    return ResultFile(path, experiment.name, "tiny", settings, environment, replace)


def run(folder: Path, experiment: Experiment, seeds: tuple[int, ...] = (1, 2)) -> list[Row]:
    """Measure an experiment at its tiny scale, and return its rows as they are read."""
    settings, file = experiment.at("tiny"), results(folder, experiment)
    progress = TimeLeft(1, io.StringIO())
    measuring.measure(experiment, settings, seeds, file, progress)
    return result_file.read(folder / f"{experiment.name}.csv")


TRAIN_LONGEST = ("draw", "figure2", "figure9", "stability", "time_to_accuracy")  # One seed will do.


# --- Each experiment


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    # Both train by the code of figure 8.
    with_extra(
        [name for name in catalogue.NAMES if name not in OF_PROCESSES],
        "workshop",
        "time_to_accuracy",
    ),
)
def test_experiment_runs_and_is_drawn(name: str, tmp_path: Path) -> None:
    experiment = catalogue.find(name)
    seeds = (1,) if experiment.prepare or name in TRAIN_LONGEST else (1, 2)
    rows = run(tmp_path, experiment, seeds)
    points = experiment.points(experiment.at("tiny"))
    assert len({(row["seed"], *(row[k] for k in points[0])) for row in rows}) == (
        len(points) * len(seeds)
    )
    path = tmp_path / f"{name}.svg"
    canvas.draw(experiment, rows, str(path))
    assert path.stat().st_size > 1000
    for claim in experiment.claims(rows):
        assert all((claim.what, claim.paper, claim.certainty, claim.ours, claim.rule, claim.why))


@names
def test_file_begins_with_its_command_and_the_papers_number(name: str) -> None:
    text = str(catalogue.module_of(name).__doc__)
    command = re.search(rf"python scripts/experiment\.py {name} .*# (some|about) ", text)
    assert command is not None
    assert "Agreement, stated before the run:" in text


@names
def test_paper_scale_is_there_or_is_a_job_for_a_cluster(name: str) -> None:
    experiment = catalogue.find(name)
    if not experiment.jobs:
        assert dataclasses.is_dataclass(experiment.at("paper"))
        return
    with pytest.raises(ValueError, match=r"needs a cluster .*scripts/train\.py --model="):
        experiment.at("paper")
    for job in experiment.jobs:
        changed = {key: value for key, value in job.flags.items() if key != "strategy"}
        recipe = dataclasses.replace(presets.find(job.model, "paper"), **changed)
        plan = Plan.make(job.model, recipe, recipe.replicas, 1_281_167)
        assert plan.updates > 0
    if name == "figure5":
        rates = [
            presets.find(job.model, "paper").initial_learning_rate(50) for job in experiment.jobs
        ]
        assert rates == [pytest.approx(0.045 * 50)] * 5


# --- Results on disk


def test_goes_on_after_an_interrupt(tmp_path: Path) -> None:
    experiment = catalogue.find("backup_sweep")
    expected = run(tmp_path / _made(tmp_path, "whole"), experiment)
    asked = []

    def interrupted(*arguments: Any) -> list[Row]:
        asked.append(arguments[1:3])
        if len(asked) == 4:
            raise KeyboardInterrupt
        return experiment.measure(*arguments)

    folder = tmp_path / _made(tmp_path, "cut")
    with pytest.raises(KeyboardInterrupt):
        run(folder, dataclasses.replace(experiment, measure=interrupted))
    assert len(result_file.read(folder / "backup_sweep.csv")) == 3
    assert run(folder, dataclasses.replace(experiment, measure=interrupted)) == expected
    assert len(asked) == len(expected) + 1  # Only the interrupted point was asked for twice.
    assert run(folder, dataclasses.replace(experiment, measure=interrupted)) == expected
    assert len(asked) == len(expected) + 1


def _made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


def test_results_of_another_version_are_not_mixed(tmp_path: Path) -> None:
    experiment = catalogue.find("figure4")
    run(tmp_path, experiment)
    with pytest.raises(MixedResults, match=r"another code \(1 instead of 2\).*--replace"):
        results(tmp_path, experiment, code="2")
    assert results(tmp_path, experiment, code="2", replace=True).rows == []
    assert results(tmp_path, experiment, cores=64).rows  # Another machine may go on.


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    experiment = catalogue.find("figure4")
    run(tmp_path, experiment)
    other = dataclasses.replace(experiment.at("tiny"), iterations=7)
    with pytest.raises(MixedResults, match="another settings"):
        ResultFile(tmp_path / "figure4.csv", "figure4", "tiny", other, ENVIRONMENT)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "figure4.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"figure4\.csv has no column 'code'"):
        results(tmp_path, catalogue.find("figure4"))


def test_environment_stays_text(tmp_path: Path) -> None:
    rows = run(tmp_path, catalogue.find("figure4"))
    assert rows[0]["commit"] == "12e4567"
    assert (rows[0]["seed"], rows[0]["shape"]) == (1, 1.5)


def test_unknown_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no experiment 'figure1', only figure2, figure3"):
        catalogue.find("figure1")


# --- Arithmetic


def test_spread_is_over_seeds() -> None:
    rows = [{"seed": 1, "x": 1.0}, {"seed": 1, "x": 3.0}, {"seed": 2, "x": 4.0}]
    found = by_seed(rows, lambda own: max(row["x"] for row in own))
    assert found == Spread(3.5, pytest.approx(0.5**0.5), 2)
    assert found.text(".1f", " s") == "3.5 ± 0.7 s"
    assert Spread.of([2.0]) == Spread(2.0, 0.0, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_delays_have_both_of_the_papers_numbers(shape: float) -> None:
    found = fitted(shape)
    assert found.share_within(2.0, 98) == pytest.approx(0.8, abs=1e-3)
    assert found.share_within(2.0, 100) == pytest.approx(0.3, abs=1e-3)


def test_independent_delays_have_one_of_them() -> None:
    found = independent()
    assert found.share_within(2.0, 100) == pytest.approx(0.3, abs=1e-6)
    assert found.share_within(2.0, 98) == pytest.approx(0.881, abs=1e-3)


def test_progress_tells_the_time_left() -> None:
    now, out = [0.0], io.StringIO()
    progress = TimeLeft(4, out, lambda: now[0])
    progress.at(0, "b 0")
    now[0] = 100.0
    progress.at(1, "b 1")
    now[0] = 101.0
    progress.at(1.5, "b 1")  # Too soon for another line.
    now[0] = 400.0
    progress.at(4, "b 3")
    lines = out.getvalue().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "0/4 b 0",
        "1/4 5 min left b 1",
        "4/4 400 s b 3",
    ]


# --- Committed results


@names
def test_name_is_that_of_the_file(name: str) -> None:
    assert catalogue.find(name).name == name


@names
def test_names_agree(name: str) -> None:
    rows = result_file.read(RESULTS / f"{name}.csv")
    assert {row["experiment"] for row in rows} == {name}
    assert (RESULTS / f"{name}.svg").exists()
    assert f"[`{name}`]({name}.svg)" in (RESULTS / "README.md").read_text("utf-8")


def test_table_is_that_of_the_results() -> None:
    text = (RESULTS / "README.md").read_text("utf-8")
    written = text.partition(claims_table.BEGIN)[2].partition(claims_table.END)[0]
    assert written.strip() == claims_table.table(RESULTS)


def test_curve_of_figure6_is_that_of_figure5() -> None:
    (curve,) = (c for c in catalogue.find("figure6").at("small").curves if c.name == "figure5")
    means = figure5.updates_by_replicas(result_file.read(RESULTS / "figure5.csv"))
    assert dict(curve.known) == pytest.approx({n: s.mean for n, s in means.items()})


@pytest.mark.parametrize("name", ["backup_sweep", "figure3", "figure4", "figure6", "table1"])
def test_committed_point_can_be_repeated(name: str) -> None:
    experiment = catalogue.find(name)
    settings, rows = experiment.at("small"), result_file.read(RESULTS / f"{name}.csv")
    point = experiment.points(settings)[-1]
    again = experiment.measure(settings, point, 1, None, lambda part: None)
    kept = [row for row in rows if row["seed"] == 1 and all(row[k] == point[k] for k in point)]
    assert len(kept) == len(again)
    for one, other in zip(kept, again, strict=True):
        assert {key: one[key] for key in other} == pytest.approx(other, rel=1e-4)
