"""Measures the points of an experiment that its file does not have yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.experiments.definition import Experiment
from scripts.experiments.result_file import ResultFile
from scripts.experiments.time_left import TimeLeft


def missing(
    experiment: Experiment, settings: Any, seeds: Sequence[int], results: ResultFile
) -> list[tuple[Any, int]]:
    """Return the points that are still to be measured, and their seeds; seed by seed."""
    points = experiment.points(settings)
    every = [(point, seed) for seed in seeds for point in points]
    return [(point, seed) for point, seed in every if not results.has(point, seed)]


def measure(
    experiment: Experiment,
    settings: Any,
    seeds: Sequence[int],
    results: ResultFile,
    progress: TimeLeft,
    data_dir: str | None = None,
) -> None:
    """Measure what is missing, and add it to the file point by point."""
    for done, (point, seed) in enumerate(missing(experiment, settings, seeds, results)):
        what = ", ".join(f"{name} {value}" for name, value in {**point, "seed": seed}.items())

        def tick(part: float, done: int = done, what: str = what) -> None:
            progress.at(done + part, what)

        tick(0.0)
        results.add(point, seed, experiment.measure(settings, point, seed, data_dir, tick))
        progress.at(done + 1, what)
    progress.close()
