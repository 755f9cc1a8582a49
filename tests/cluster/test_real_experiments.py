"""The experiments whose workers are real processes, one point of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.experiments import auto_replicas, canvas, catalogue
from tests.cluster.processes import start
from tests.extra import extra

pytestmark = pytest.mark.long


def rows_of(name: str, point: int) -> list[dict[str, Any]]:
    process = start("-m", "tests.cluster.programs.experiment_point", name, str(point))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    rows: list[dict[str, Any]] = json.loads(out.splitlines()[-1])
    return rows


def test_time_to_accuracy_of_processes(tmp_path: Path) -> None:
    rows = rows_of("time_to_accuracy_real", 1)
    assert [row["method"] for row in rows] == ["b = 1"] * 3
    assert rows[0]["seconds"] == 0 < rows[1]["seconds"] < rows[2]["seconds"]
    path = tmp_path / "picture.svg"
    methods = ("b = 0", "b = 1", "asynchronous")
    all_rows = [{**row, "method": method} for method in methods for row in rows]
    canvas.draw(catalogue.find("time_to_accuracy_real"), all_rows, str(path))
    assert path.stat().st_size > 1000


@extra  # As the one above; what auto does is in test_auto_replicas.py.
def test_auto_against_fixed_splits() -> None:
    settings = auto_replicas.EXPERIMENT.at("tiny")
    points = auto_replicas.points(settings)
    (row,) = rows_of("auto_replicas", points.index({"delays": "heavy tail", "split": "auto"}))
    assert row["seconds"] >= settings.seconds
    assert 0 < row["updates"] <= row["gradients"] <= settings.workers * row["updates"]
    # A gradient is computed for 0.05 s at least, so each worker makes 20 a second at most.
    assert 0 < row["gradients_per_s"] <= 20 * settings.workers
