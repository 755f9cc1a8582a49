"""Time per update as the number of workers, the tail of their times, and b grow.

  python scripts/experiment.py cluster_sizes      # some 2 minutes on one core

Only times are simulated, and nothing is trained. A gradient takes 1.6 s on average in each model:
1.4 s and an exponential time of 0.2 s; or a Pareto time of shape 5, 3 or 2. Of the workers, 0, 1, 5
or 10 % are backups. An update itself takes no time.

The paper has no number for this; its figures 3 and 4 are about 100 workers. The theory is that an
update without backups takes the mean of the largest of N independent times, and one with a share of
backups a quantile, which does not depend on the number of workers.

Agreement, stated before the run:

* exponential: 1.4 s + 0.2 s x (1 + 1/2 + ... + 1/N), within 2 % with every number of workers
* Pareto: N! G(1 - 1/shape) / G(N + 1 - 1/shape) times the shortest time, within 10 % with every
  number of workers. The largest times have a deviation of their own, without bound for shape 2.
* with 5 % backups, an update with the most workers takes at most 5 % longer than one with 100, with
  each model
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from scripts.experiments.claims import Claim
from scripts.experiments.definition import PAPER, SMALL, TINY, Experiment, Point, Row, Tick
from scripts.experiments.spreads import Spread, by_seed, select
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Durations, Exponential, Pareto
from tf_backup.simulation.timing import simulate

MEAN_S = 1.6
EXPONENTIAL = Exponential(offset=1.4, mean=0.2)
SHAPES = (5.0, 3.0, 2.0)
PERCENT = (0, 1, 5, 10)
_FEW = 100  # Workers, with which the most are compared.
_SHARE = 5  # Percent of backups in that comparison.


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Settings.

    Attributes:
      workers: numbers of workers, N + b.
      updates: simulated updates of a point.
    """

    workers: tuple[int, ...]
    updates: int


def models() -> dict[str, Durations]:
    """Return the models of the time of a gradient, by name."""
    shapes = {f"Pareto {shape:g}": Pareto(shortest_s(shape), shape) for shape in SHAPES}
    return {"exponential": EXPONENTIAL, **shapes}


def shortest_s(shape: float) -> float:
    """Return the shortest time of a Pareto model, whose mean is MEAN_S."""
    return MEAN_S * (1.0 - 1.0 / shape)


def largest_s(name: str, workers: int) -> float:
    """Return the mean of the largest of independent times, in seconds."""
    if name == "exponential":
        harmonic = sum(1.0 / k for k in range(1, workers + 1))
        return EXPONENTIAL.offset + EXPONENTIAL.mean * harmonic
    shape = float(name.rpartition(" ")[2])
    logs = math.lgamma(workers + 1) - math.lgamma(workers + 1 - 1.0 / shape)
    return shortest_s(shape) * math.gamma(1.0 - 1.0 / shape) * math.exp(logs)


def points(settings: Sizes) -> list[Point]:
    """Return each model with each number of workers and each share of backups that differs."""
    return [
        {"delays": name, "workers": workers, "percent": percent}
        for name in models()
        for workers in settings.workers
        for percent in PERCENT
        if not percent or percent * workers >= 100
    ]


def measure(
    settings: Sizes, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Simulate the updates of one number of workers."""
    del data_dir, tick
    backups = round(point["workers"] * point["percent"] / 100)
    policy = BackupPolicy(point["workers"] - backups, backups)
    found = simulate(models()[point["delays"]], policy, settings.updates, seed=seed)
    return [
        {
            "backups": backups,
            "updates": settings.updates,
            "s_per_update": found.seconds_per_update,
            "wasted": found.wasted,
        }
    ]


def _time(rows: Sequence[Row], **values: Any) -> Spread:
    return by_seed(select(rows, **values), lambda own: float(own[0]["s_per_update"]))


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare with the mean of the largest time."""
    sizes = sorted({row["workers"] for row in rows})
    found = []
    for name in dict.fromkeys(row["delays"] for row in rows):
        allowed = 0.02 if name == "exponential" else 0.1
        ours = {size: _time(rows, delays=name, workers=size, percent=0) for size in sizes}
        theory = {size: largest_s(name, size) for size in sizes}
        found.append(
            Claim(
                f"time per update without backups, {name} times",
                ", ".join(f"{size:,}: {theory[size]:.2f} s" for size in sizes),
                "not in the paper: the mean of the largest of N times",
                ", ".join(f"{size:,}: {ours[size].text('.2f', ' s')}" for size in sizes),
                f"within {allowed:.0%} with every number of workers",
                all(abs(ours[size].mean / theory[size] - 1) <= allowed for size in sizes),
                "the deviation of a few of the largest times; an update takes no time",
            )
        )
        few, many = (
            _time(rows, delays=name, workers=size, percent=_SHARE) for size in (_FEW, sizes[-1])
        )
        found.append(
            Claim(
                f"with {_SHARE} % backups, more workers do not make updates longer, {name} times",
                "-",
                "not in the paper: a quantile does not depend on the number of workers",
                f"{_FEW}: {few.text('.2f', ' s')}, {sizes[-1]:,}: {many.text('.2f', ' s')}",
                "at most 5 % longer",
                many.mean <= 1.05 * few.mean,
                "a late worker begins its next gradient later than the others",
            )
        )
    return found


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the time per update by the number of workers, for each model."""
    names = list(dict.fromkeys(row["delays"] for row in rows))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for percent in PERCENT:
            own = select(rows, delays=name, percent=percent)
            sizes = sorted({row["workers"] for row in own})
            times = [_time(own, workers=size) for size in sizes]
            deviations = [each.deviation for each in times]
            label = f"{percent} % backups"
            axes.errorbar(sizes, [t.mean for t in times], deviations, marker="o", label=label)
        sizes = sorted({row["workers"] for row in rows})
        axes.plot(sizes, [largest_s(name, size) for size in sizes], "k:", label="theory")
        axes.set(title=name, xlabel="workers N + b", xscale="log", yscale="log")
        axes.label_outer()
    figure.axes[0].set(ylabel="time per update (s)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)


EXPERIMENT = Experiment(
    name="cluster_sizes",
    title="Time per update by the number of workers: mean and standard deviation over seeds",
    settings={
        TINY: Sizes((10, 100), 50),
        SMALL: Sizes((10, 100, 1000, 10_000), 2000),
        PAPER: Sizes((10, 100, 1000, 10_000), 20_000),
    },
    seeds=(1, 2, 3),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
)
