"""Figure 6: estimated time to converge for every split of 100 workers into N + b, and the best b.

  python scripts/experiment.py figure6      # some seconds on one core

The paper: N = 96, b = 4 is the fastest. Its estimate is the number of updates that N gradients need
(figure 5, linear between five points) times the mean time until the N-th of 100 gradients arrives
(figure 4). Here, the times are those of `figure4`. The updates are a power law of N, fitted to some
points by least squares of the logarithms: to the two numbers in the paper's text, since the three
others are not known, or to the means of our own `figure5`, a small network on MNIST.

Agreement, stated before the run: the best b differs by at most 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.experiments.arrivals_simulated import Iterations, arrivals
from scripts.experiments.claims import FOUND, Claim
from scripts.experiments.definition import PAPER, SMALL, TINY, Experiment, Point, Row, Tick
from scripts.experiments.spreads import by_seed, select
from scripts.experiments.straggler_fit import SHAPE, SHAPES

PAPER_CURVE = "paper"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Updates to converge, for some values of N.

    Attributes:
      name: where they are from.
      known: N and its updates, two pairs or more.
    """

    name: str
    known: tuple[tuple[int, float], ...]

    def updates(self, replicas: int) -> float:
        """Return the updates that N gradients need, by the power law fitted to all pairs."""
        counts, updates = np.array(self.known, np.float64).T
        power, factor = np.polyfit(np.log(counts), np.log(updates), 1)
        return float(np.exp(factor) * replicas**power)


@dataclasses.dataclass(frozen=True)
class Splits:
    """Settings.

    Attributes:
      arrivals: the iterations that are simulated.
      curves: updates to converge.
    """

    arrivals: Iterations
    curves: tuple[Curve, ...]


# Those of `figure5` are the means in results/figure5.csv; a test compares them.
_CURVES = (
    Curve(PAPER_CURVE, ((50, 137.5e3), (100, 76.2e3))),
    Curve("figure5", ((50, 106.4), (70, 80), (80, 72.8), (90, 65.2), (100, 60.8))),
)


def points(settings: Splits) -> list[Point]:
    """Return each curve with each shape of the tail."""
    return [{"curve": curve.name, "shape": shape} for curve in settings.curves for shape in SHAPES]


def measure(
    settings: Splits, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Estimate the time to converge for every N."""
    del data_dir, tick
    (curve,) = (each for each in settings.curves if each.name == point["curve"])
    workers = settings.arrivals.workers
    means = arrivals(settings.arrivals, point["shape"], seed).mean(axis=0)
    return [
        {
            "replicas": replicas,
            "backups": workers - replicas,
            "updates": curve.updates(replicas),
            "hours": curve.updates(replicas) * float(means[replicas - 1]) / 3600,
        }
        for replicas in range(50, workers + 1)
    ]


def best(rows: Sequence[Row]) -> int:
    """Return the b of the shortest time."""
    return int(min(rows, key=lambda row: float(row["hours"]))["backups"])


def gain(rows: Sequence[Row]) -> float:
    """Return the share of the time that the best b saves against b = 0."""
    full = select(rows, backups=0)[0]["hours"]
    return float(1 - min(row["hours"] for row in rows) / full)


def points_of(curve: str) -> str:
    """Return what a curve is fitted to, in words."""
    if curve == PAPER_CURVE:
        return "two points of the curve are known, not five"
    return "the curve is that of a small network on MNIST"


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare with the text of section 3."""
    found = []
    for curve in dict.fromkeys(row["curve"] for row in rows):
        of_curve = select(rows, curve=curve)
        main = select(of_curve, shape=SHAPE)
        ours, saved = by_seed(main, best), by_seed(main, gain)
        others = [
            f"shape {shape:g}: b = {by_seed(own, best).mean:.1f}"
            for shape in SHAPES
            if shape != SHAPE and (own := select(of_curve, shape=shape))
        ]
        of = "the paper's updates" if curve == PAPER_CURVE else f"the updates of {curve}"
        found.append(
            Claim(
                f"the b of the shortest estimated time, N + b = 100, with {of}",
                "4 (N = 96)",
                FOUND,
                f"{ours.text('.1f')}; saves {saved.text('.1f', ' %', 100)} against b = 0",
                "b differs by at most 2",
                abs(ours.mean - 4) <= 2,
                f"the tail beyond two numbers is a choice ({', '.join(others)}); "
                + points_of(curve),
            )
        )
    return found


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the estimated time by b, relative to b = 0."""
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, curve in zip(panels, curves, strict=True):
        for shape in dict.fromkeys(row["shape"] for row in rows):
            own = select(rows, curve=curve, shape=shape)
            counts = sorted({row["backups"] for row in own})
            hours = [
                by_seed(select(own, backups=b), lambda each: each[0]["hours"]).mean for b in counts
            ]
            panel.plot(counts, [each / hours[0] for each in hours], label=f"shape {shape:g}")
        panel.axvline(4, color="0.6", linestyle=":", label="the paper's best b")
        panel.set(
            xlabel="backup workers b, N = 100 - b",
            ylabel="estimated time, relative to b = 0",
            title=f"updates: {curve}",
        )
        panel.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="figure6",
    title="Estimated time to converge of 100 workers: mean over seeds",
    settings={
        TINY: Splits(Iterations(100, 50), _CURVES),
        SMALL: Splits(Iterations(100, 5000), _CURVES),
        PAPER: Splits(Iterations(100, 50_000), _CURVES),
    },
    seeds=(1, 2, 3, 4, 5),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
)
