"""The commands scripts/experiment.py and scripts/plot.py, as users call them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.experiments import catalogue

pytestmark = pytest.mark.slow  # Computes for seconds.

ROOT = Path(__file__).parents[3]


def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"scripts/{script}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_runs_and_draws(tmp_path: Path) -> None:
    done = call("experiment.py", "figure4", "--scale=tiny", "--seeds=1", f"--results={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "━ 3/3" in done.stderr
    assert done.stdout == f"{tmp_path}/figure4.csv has 300 rows.\n"
    done = call("plot.py", f"--results={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure4.svg").exists()


def test_lists_all_experiments() -> None:
    done = call("experiment.py", "--list")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [name for name, _ in lines] == list(catalogue.NAMES)
    assert dict(lines)["figure4"].startswith("Figure 4: mean and median time until")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["figure1"], "there is no experiment 'figure1', only figure2, figure3"),
        ([], "takes the name of one experiment: figure2"),
        (["figure4", "--seeds=one"], "--seeds has 'one'"),
        (["figure5", "--scale=paper"], "needs a cluster"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_sentence(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    done = call("experiment.py", *arguments, f"--results={tmp_path}")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    done = call("experiment.py", "figure5", f"--data_dir={tmp_path}", f"--results={tmp_path}")
    assert done.returncode == 2
    assert "'mnist' is not at" in done.stderr and "--download" in done.stderr
    assert not (tmp_path / "figure5.csv").exists()


def test_picture_without_results_is_refused(tmp_path: Path) -> None:
    done = call("plot.py", "figure4", f"--results={tmp_path}")
    assert done.returncode == 2
    assert "Run scripts/experiment.py figure4 first." in done.stderr
