"""replicas="auto" against every fixed split of 4 workers into N and b, on real processes.

  python scripts/experiment.py auto_replicas      # about 22 minutes; workers mostly sleep

Not in the paper, where N and b are chosen before the training. `replicas="auto"` begins with N = 4,
and while training goes on it moves to the N between 2 and 4 that uses most gradients per second.
Workers sleep instead of computing, so that all four fit two cores. Three patterns of delays:

* one slow worker: 0.06 to 0.07 s, and worker 3 four times as long;
* heavy tail: Pareto of shape 1.5 from 0.05 s on, so that one gradient in eight takes at least four
  times as long as the shortest, but none more than 3 s;
* slow from half-way on: all workers alike at first, and worker 3 eight times slower from about the
  middle of the training on.

In a first version, auto chose every 32 updates, so that N changed after 64 at the earliest: 17 of
the 24 s with one slow worker. It used 0.59, 0.79 and 0.87 times the gradients of the best fixed
split. On a virtual clock, choosing every 8 updates was better with every pattern, also with 16
workers and in longer trainings, so auto does that now.

Agreement, stated before the run: auto uses at least 90 % of the gradients per second of the fixed
split that uses most, by the means over seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.experiments import busy_workers
from scripts.experiments.claims import Claim
from scripts.experiments.definition import PAPER, SMALL, TINY, Experiment, Point, Row, Tick
from scripts.experiments.spreads import Spread, select
from tf_backup.simulation.delays import Durations, OneSlowWorker, Pareto

AUTO = "auto"
_SHORTEST_S, _LONGEST_S = 0.05, 3.0
_USUAL_S = (0.06, 0.07)
_PART = 0.9  # Of the best split's gradients, for agreement.


@dataclasses.dataclass(frozen=True)
class Splits:
    """Settings.

    Attributes:
      workers: N + b.
      least: the smallest N.
      seconds: length of a training.
    """

    workers: int
    least: int
    seconds: float


def usual(rng: np.random.Generator, workers: Any) -> Any:
    """Return durations of healthy workers."""
    return rng.uniform(*_USUAL_S, len(workers))


def patterns(settings: Splits) -> dict[str, Durations]:
    """Return the models of delays by name."""
    slow, tail = settings.workers - 1, Pareto(_SHORTEST_S, 1.5)
    half = round(settings.seconds / 2 / np.mean(_USUAL_S))  # Gradients until then.

    def from_half_way_on(rng: np.random.Generator, workers: Any) -> Any:
        late = (workers == slow) & (np.arange(len(workers)) >= half)
        return usual(rng, workers) * np.where(late, 8.0, 1.0)

    return {
        "one slow worker": OneSlowWorker(usual, slow, 4.0),
        "heavy tail": lambda rng, workers: np.minimum(tail(rng, workers), _LONGEST_S),
        "slow from half-way on": from_half_way_on,
    }


def splits(settings: Splits) -> dict[str, dict[str, Any]]:
    """Return the arguments of `wrap` for each fixed split and for auto, by name."""
    workers, least = settings.workers, settings.least
    fixed = range(workers, least - 1, -1)
    return {
        **{f"N = {n}": {"replicas": n, "backups": workers - n} for n in fixed},
        AUTO: {"replicas": AUTO, "least_replicas": least},
    }


def points(settings: Splits) -> list[Point]:
    """Return each pattern with each split."""
    return [
        {"delays": name, "split": split}
        for name in patterns(settings)
        for split in splits(settings)
    ]


def measure(
    settings: Splits, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Train with one split."""
    del data_dir
    options = splits(settings)[point["split"]]
    durations = patterns(settings)[point["delays"]]
    found = busy_workers.speed(settings.workers, options, durations, settings.seconds, seed, tick)
    return [
        {
            "updates": found.updates,
            "gradients": found.gradients,
            "seconds": found.seconds,
            "gradients_per_s": found.gradients / found.seconds,
        }
    ]


def speeds(rows: Sequence[Row], pattern: str) -> dict[str, Spread]:
    """Return the gradients used per second over seeds, by split."""
    own = select(rows, delays=pattern)
    names = dict.fromkeys(row["split"] for row in own)
    return {
        name: Spread.of(row["gradients_per_s"] for row in select(own, split=name)) for name in names
    }


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare auto with the fixed split that uses most gradients per second."""
    found = []
    for pattern in dict.fromkeys(row["delays"] for row in rows):
        by_split = speeds(rows, pattern)
        auto = by_split.pop(AUTO)
        shown = ", ".join(f"{name}: {each.text('.1f')}" for name, each in by_split.items())
        best = max(each.mean for each in by_split.values())
        found.append(
            Claim(
                f'replicas="auto" uses as many gradients a second as the best fixed N ({pattern})',
                "-",
                "not in the paper, which chooses N before the training",
                f"auto: {auto.text('.1f')}, {auto.mean / best:.2f} times the best; {shown}",
                f"at least {_PART:.0%} of the best fixed split's mean",
                auto.mean >= _PART * best,
                "4 processes that sleep instead of computing; 24 s, in which auto begins with "
                "N = 4, and chooses every 8 updates",
            )
        )
    return found


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the gradients per second of each split, for each pattern."""
    names = list(dict.fromkeys(row["delays"] for row in rows))
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    for panel, name in zip(panels, names, strict=True):
        by_split = speeds(rows, name)
        colors = ["tab:orange" if split == AUTO else "tab:blue" for split in by_split]
        panel.bar(
            list(by_split),
            [each.mean for each in by_split.values()],
            yerr=[each.deviation for each in by_split.values()],
            color=colors,
            capsize=3,
        )
        panel.set(title=name, ylabel="gradients used per second")


EXPERIMENT = Experiment(
    name="auto_replicas",
    title='Gradients used per second: fixed N of 4 workers, and replicas="auto"',
    settings={
        TINY: Splits(2, 1, 1.0),
        SMALL: Splits(4, 2, 24.0),
        PAPER: Splits(16, 8, 300.0),
    },
    seeds=(1, 2, 3),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
)
