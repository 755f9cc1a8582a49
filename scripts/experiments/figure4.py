"""Figure 4: mean and median time until the k-th of 100 gradients arrives.

  python scripts/experiment.py figure4      # some seconds on one core

The paper: for the last few gradients, the time grows exponentially. Here, arrivals are drawn from
delays that were fitted to two numbers of figure 3 (`straggler_fit`), for three shapes of the tail.

Agreement, stated before the run: from the 95th gradient on, each increment of the mean time is at
least 1.25 times the one before, in the mean over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.experiments.arrivals_simulated import Iterations, arrivals
from scripts.experiments.claims import FOUND, Claim
from scripts.experiments.definition import PAPER, SMALL, TINY, Experiment, Point, Row, Tick
from scripts.experiments.spreads import Spread, by_seed, select
from scripts.experiments.straggler_fit import SHAPE, SHAPES

GROWTH = 1.25


def points(settings: Iterations) -> list[Point]:
    """Return each shape of the tail."""
    del settings
    return [{"shape": shape} for shape in SHAPES]


def measure(
    settings: Iterations, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Return mean and median of the arrival of each k."""
    del data_dir, tick
    times = arrivals(settings, point["shape"], seed)
    return [
        {"gradient": k + 1, "mean_s": float(mean), "median_s": float(median)}
        for k, (mean, median) in enumerate(
            zip(times.mean(axis=0), np.median(times, axis=0), strict=True)
        )
    ]


def growth(rows: Sequence[Row]) -> float:
    """Return the smallest ratio of successive increments of the mean time, from the 95th on."""
    last = range(min(95, max(row["gradient"] for row in rows) - 3), 101)
    means = [
        by_seed(found, lambda each: each[0]["mean_s"]).mean
        for k in last
        if (found := select(rows, gradient=k))
    ]
    steps = np.diff(means)
    return float((steps[1:] / steps[:-1]).min())


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare with the text of section 3."""
    main = select(rows, shape=SHAPE)
    smallest = growth(main)
    others = [
        f"shape {shape:g}: {growth(own):.2f}"
        for shape in SHAPES
        if shape != SHAPE and (own := select(rows, shape=shape))
    ]
    last = by_seed(select(main, gradient=100), lambda each: each[0]["mean_s"])
    half = by_seed(select(main, gradient=50), lambda each: each[0]["mean_s"])
    return [
        Claim(
            "the time of the last few of 100 gradients grows exponentially",
            "in words",
            FOUND,
            f"increments grow by {smallest:.2f} or more; mean time: number 50 "
            f"{half.text('.2f', ' s')}, number 100 {last.text('.2f', ' s')}",
            f"from number 95 on, by {GROWTH} or more",
            smallest >= GROWTH,
            f"{', '.join(others)}; a heavy tail was chosen, and grows faster than exponentially",
        )
    ]


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw mean and median times by k."""
    panel = figure.subplots()
    for index, shape in enumerate(dict.fromkeys(row["shape"] for row in rows)):
        own = select(rows, shape=shape)
        counts = sorted({row["gradient"] for row in own})
        for column, style in (("mean_s", "-"), ("median_s", ":")):
            times = [Spread.of(row[column] for row in select(own, gradient=k)).mean for k in counts]
            name = f"{column[:-2]}, shape {shape:g}"
            panel.plot(counts, times, style, color=f"C{index}", label=name)
    panel.set(xlabel="number of the gradient, k", ylabel="time since the iteration's start (s)")
    panel.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="figure4",
    title="Time to the k-th of 100 gradients: mean over seeds",
    settings={
        TINY: Iterations(100, 50),
        SMALL: Iterations(100, 5000),
        PAPER: Iterations(100, 50_000),
    },
    seeds=(1, 2, 3, 4, 5),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
)
