"""Step time of 50 workers and b = 0..5 backups, as in the TensorFlow paper (OSDI 2016, figure 8).

  python scripts/experiment.py backup_sweep      # about a minute on one core

The TensorFlow paper: the median step is shortest with b = 4 (1.93 s) and slightly longer with
b = 5; the speed-up normalized by the machines, t(0) / t(b) x 50 / (50 + b), is best with b = 3
(9.5 %). Here, only times are simulated, and nothing is trained. The delays are those fitted to this
paper's 100 workers (`straggler_fit`), stated before the run, with two other shapes of the tail and
an exponential one beside them. They have no network: backups cost nothing but the machine.

Agreement, stated before the run: the best b is that of the TensorFlow paper or next to it; a
percentage is within 5 points; a time is within 10 %.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.experiments.claims import TF_TEXT, Claim
from scripts.experiments.definition import PAPER, SMALL, TINY, Experiment, Point, Row, Tick
from scripts.experiments.spreads import by_seed, select
from scripts.experiments.straggler_fit import SHAPES, fitted
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Durations, Exponential
from tf_backup.simulation.timing import simulate

MAIN = "shape 2"
_MODELS = {f"shape {shape:g}": shape for shape in SHAPES}
EXPONENTIAL = "exponential"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Settings.

    Attributes:
      workers: N.
      most_backups: the largest b.
      updates: simulated updates of a point.
    """

    workers: int
    most_backups: int
    updates: int


def delays(name: str) -> Durations:
    """Return a model of delays by name."""
    if name == EXPONENTIAL:
        return Exponential(offset=1.4, mean=0.12)
    return fitted(_MODELS[name])


def points(settings: Sweep) -> list[Point]:
    """Return each model of delays with each b."""
    names = [MAIN, *(name for name in _MODELS if name != MAIN), EXPONENTIAL]
    counts = range(settings.most_backups + 1)
    return [{"delays": name, "backups": backups} for name in names for backups in counts]


def measure(
    settings: Sweep, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Simulate the updates of one b."""
    del data_dir, tick
    policy = BackupPolicy(settings.workers, point["backups"])
    found = simulate(delays(point["delays"]), policy, settings.updates, seed=seed)
    steps = np.diff(found.times)
    return [
        {
            "workers": settings.workers,
            "median_step_s": float(np.median(steps)),
            "mean_step_s": float(steps.mean()),
            "wasted": found.wasted,
        }
    ]


def step_s(rows: Sequence[Row], backups: int, name: str = "median_step_s") -> float:
    """Return the step time with b backups of one seed's rows."""
    return float(select(rows, backups=backups)[0][name])


def speedups(rows: Sequence[Row], name: str = "median_step_s") -> dict[int, float]:
    """Return the normalized speed-up of one seed's rows, by b, relative to b = 0."""
    workers, full = rows[0]["workers"], step_s(rows, 0, name)
    counts = sorted(row["backups"] for row in rows)
    return {b: full / step_s(rows, b, name) * workers / (workers + b) - 1 for b in counts}


def speedup(rows: Sequence[Row], backups: int) -> float:
    """Return the normalized speed-up with b backups of one seed's rows."""
    return speedups(rows)[backups]


def best(values: dict[int, float]) -> int:
    """Return the b with the largest value."""
    return max(values, key=lambda b: values[b])


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare with the TensorFlow paper's figure 8."""
    main = select(rows, delays=MAIN)
    counts = sorted({row["backups"] for row in main})
    fastest = by_seed(main, lambda own: best({b: -step_s(own, b) for b in counts}))
    most = by_seed(main, lambda own: best(speedups(own)))
    gain = by_seed(main, lambda own: max(speedups(own).values()))
    mean_gain = by_seed(main, lambda own: max(speedups(own, "mean_step_s").values()))
    time_4 = by_seed(main, lambda own: step_s(own, min(4, counts[-1])))
    others = [
        f"{name}: b = {by_seed(own, lambda each: best(speedups(each))).mean:.1f}"
        for name in (*_MODELS, EXPONENTIAL)
        if name != MAIN and (own := select(rows, delays=name))
    ]
    no_cost = (
        "the simulated network has no limit, so more backups never slow a step down: the end of "
        "the sweep is always the fastest, and this agreement means little"
    )
    return [
        Claim(
            "the b of the shortest median step, N = 50",
            "4",
            TF_TEXT,
            fastest.text(".1f"),
            "b differs by at most 1",
            abs(fastest.mean - 4) <= 1,
            no_cost,
        ),
        Claim(
            "the b of the best normalized speed-up, N = 50",
            "3",
            TF_TEXT,
            most.text(".1f"),
            "b differs by at most 1",
            abs(most.mean - 3) <= 1,
            f"the tail beyond two numbers is a choice; {', '.join(others)}",
        ),
        Claim(
            "the best normalized speed-up, N = 50",
            "9.5 %",
            TF_TEXT,
            f"{gain.text('.1f', ' %', 100)} (of mean steps: {mean_gain.text('.1f', ' %', 100)})",
            "within 5 points",
            abs(gain.mean - 0.095) <= 0.05,
            "medians hide the longest steps; and the two jobs ran on different days",
        ),
        Claim(
            "the median step with b = 4, N = 50",
            "1.93 s",
            TF_TEXT,
            time_4.text(".2f", " s"),
            "within 10 %",
            abs(time_4.mean / 1.93 - 1) <= 0.1,
            "the shortest time of a gradient is a choice of ours; no time for the update",
        ),
    ]


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw step times and normalized speed-ups by b."""
    times, gains = figure.subplots(1, 2)
    for name in dict.fromkeys(row["delays"] for row in rows):
        own = select(rows, delays=name)
        counts = sorted({row["backups"] for row in own})
        steps = [by_seed(own, functools.partial(step_s, backups=b)) for b in counts]
        speed = [by_seed(own, functools.partial(speedup, backups=b)) for b in counts]
        times.errorbar(
            counts, [s.mean for s in steps], [s.deviation for s in steps], marker="o", label=name
        )
        percent = [100 * s.mean for s in speed]
        gains.errorbar(counts, percent, [100 * s.deviation for s in speed], marker="o")
    times.axhline(1.93, color="0.6", linestyle=":", label="TensorFlow paper, b = 4")
    gains.axhline(9.5, color="0.6", linestyle=":")
    times.set(xlabel="backup workers b", ylabel="median step (s)")
    gains.set(xlabel="backup workers b", ylabel="normalized speed-up (%)")
    times.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="backup_sweep",
    title="Step time of 50 workers and b backups: mean and standard deviation over seeds",
    settings={TINY: Sweep(10, 2, 50), SMALL: Sweep(50, 5, 2000), PAPER: Sweep(50, 5, 20_000)},
    seeds=(1, 2, 3, 4, 5),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
)
