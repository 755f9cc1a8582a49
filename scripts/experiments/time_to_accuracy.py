"""Time to a test error: b = 0, b > 0 with as many workers, and asynchronous at its best.

  python scripts/experiment.py time_to_accuracy --data_dir=DIR     # about 12 minutes on one core

The paper compares no b = 0 with b > 0 from end to end, its asynchronous training has one learning
rate, and there is one cluster. Its reviewers asked for more. Here, 8 workers of a virtual cluster
train a small network on 10,000 images of MNIST with SGD until the test error is at most 10 %; a
test follows each 32 gradients. Three models of delays make gradients late: one slow worker, a heavy
tail (Pareto), and an exponential time. The methods:

* synchronous, N + b = 8, with momentum 0.9 and a learning rate proportional to N, as in the paper;
* asynchronous, with momentum and without;
* asynchronous without momentum, and no gradient older than 8 updates;
* asynchronous without momentum, and a learning rate divided by the staleness of the gradient
  (Zhang et al., 1511.05950), from that of 8 workers on.

Each method has three learning rates: that with which one worker was fastest, among 0.0025, 0.005,
0.01 and 0.02 with momentum 0.9 (a rate without momentum is 10 times as large), a half, and a
quarter of it. The best of the three is shown, so asynchronous training, which has four variants,
has as many tries as synchronous training with its four b.

Agreement, stated before the run: one is sooner than the other if the difference of the means is
more than the larger standard deviation. A rate counts if all seeds reach the error with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from scripts.experiments import digit_images, virtual_training
from scripts.experiments.claims import Claim
from scripts.experiments.definition import SMALL, TINY, Experiment, Job, Point, Row, Tick
from scripts.experiments.digit_images import Subset
from scripts.experiments.spreads import Spread, select
from scripts.experiments.virtual_training import Problem
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Durations, Exponential, OneSlowWorker, Pareto

MOMENTUM = 0.9
BY_STALENESS = "async, rate / staleness"
ASKED = "not in the paper; its reviewers asked"


@dataclasses.dataclass(frozen=True)
class Race:
    """Settings.

    Attributes:
      problem: data and network.
      workers: N + b.
      most_backups: the largest b.
      learning_rate: learning rate of one worker's SGD without momentum.
      factors: factors of the learning rate that are tried.
      error: test error to reach.
      every: gradients between two tests.
      gradients: gradients after which a training is given up.
    """

    problem: Problem
    workers: int
    most_backups: int
    learning_rate: float
    factors: tuple[float, ...]
    error: float
    every: int
    gradients: int


class Method(NamedTuple):
    """A policy and the momentum of SGD."""

    policy: BackupPolicy
    momentum: float


def methods(settings: Race) -> dict[str, Method]:
    """Return the methods by name."""
    workers = settings.workers
    unbounded = BackupPolicy.asynchronous(workers)
    bounded = BackupPolicy.asynchronous(workers, max_staleness=workers)
    return {
        **{
            f"sync, b = {b}": Method(BackupPolicy(workers - b, b), MOMENTUM)
            for b in range(settings.most_backups + 1)
        },
        "async, momentum": Method(unbounded, MOMENTUM),
        "async": Method(unbounded, 0.0),
        f"async, staleness <= {workers}": Method(bounded, 0.0),
        BY_STALENESS: Method(unbounded, 0.0),
    }


def delays(settings: Race) -> dict[str, Durations]:
    """Return the models of delays by name."""
    slow = OneSlowWorker(Exponential(0.9, 0.1), settings.workers - 1, 4.0)
    return {
        "one slow worker": slow,
        "Pareto": Pareto(1.0, 2.0),
        "exponential": Exponential(1.0, 0.3),
    }


def points(settings: Race) -> list[Point]:
    """Return each model of delays with each method and learning rate."""
    return [
        {"delays": name, "method": method, "factor": factor}
        for name in delays(settings)
        for method in methods(settings)
        for factor in settings.factors
    ]


def measure(settings: Race, point: Point, seed: int, data_dir: str | None, tick: Tick) -> list[Row]:
    """Train until the test error is reached; -1 seconds mean that it never was."""
    import keras

    policy, momentum = methods(settings)[point["method"]]
    durations = delays(settings)[point["delays"]]
    replicas, updates = policy.replicas, settings.gradients // policy.replicas
    every = max(1, round(settings.every / replicas))
    rate = settings.learning_rate * (1 - momentum) * replicas * point["factor"]
    used: Any = rate
    if point["method"] == BY_STALENESS:
        rate *= settings.workers
        ages = virtual_training.staleness_of(policy, durations, updates + every, seed)
        used = virtual_training.schedule([rate / max(1, age) for age in ages])
    tests = virtual_training.train(
        settings.problem,
        digit_images.standardized(settings.problem.data, data_dir),
        keras.optimizers.SGD(used, momentum=momentum),
        policy,
        durations,
        every=every,
        updates=updates,
        seed=seed,
        until=settings.error,
        tick=tick,
    )
    last = tests[-1]
    return [
        {
            "seconds": last.seconds if last.error <= settings.error else -1,
            "updates": last.updates,
            "gradients": last.updates * replicas,
            "error": last.error,
            "learning_rate": rate,
        }
    ]


class Best(NamedTuple):
    """A method with its best learning rate; `seconds` is None if no rate always reached it."""

    method: str
    factor: float
    seconds: Spread | None

    @property
    def mean(self) -> float:
        """The mean seconds; infinite if the error was not always reached."""
        return self.seconds.mean if self.seconds else float("inf")

    @property
    def text(self) -> str:
        """The method and its seconds."""
        return f"{self.method}: {self.seconds.text('.0f', ' s') if self.seconds else 'not reached'}"


def best(rows: Sequence[Row], method: str) -> Best:
    """Return a method's best learning rate, from rows of one model of delays."""
    own = select(rows, method=method)
    found = [Best(method, own[0]["factor"], None)]
    for factor in dict.fromkeys(row["factor"] for row in own):
        times = [row["seconds"] for row in select(own, factor=factor)]
        if min(times) >= 0:
            found.append(Best(method, factor, Spread.of(times)))
    return min(found, key=lambda each: each.mean)


def sooner(one: Best, other: Best) -> bool:
    """Return whether one is sooner than the other by more than the larger deviation."""
    if one.seconds is None or other.seconds is None:
        return one.seconds is not None
    return one.mean + max(one.seconds.deviation, other.seconds.deviation) < other.mean


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Answer the reviewers' two questions for each model of delays."""
    found = []
    names = list(dict.fromkeys(row["method"] for row in rows))
    for model in dict.fromkeys(row["delays"] for row in rows):
        own = select(rows, delays=model)
        times = [best(own, name) for name in names]
        full, *others = [each for each in times if each.method.startswith("sync")]
        backup = min(others, key=lambda each: each.mean)
        sync = min(full, backup, key=lambda each: each.mean)
        free = min((t for t in times if t.method.startswith("async")), key=lambda each: each.mean)
        rule = "by more than the larger deviation"
        small = "8 workers, a small network, an early error; the best of few learning rates"
        found += [
            Claim(
                f"b > 0 reaches a test error of 10 % sooner than b = 0, N + b = 8 ({model})",
                "-",
                ASKED,
                f"{full.text}; {backup.text}",
                rule,
                sooner(backup, full),
                small,
            ),
            Claim(
                f"synchronous, at its best, reaches it sooner than asynchronous ({model})",
                "-",
                ASKED,
                f"{sync.text}; {free.text}",
                rule,
                sooner(sync, free),
                small,
            ),
        ]
    return found


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the time of each method with its best learning rate."""
    models = list(dict.fromkeys(row["delays"] for row in rows))
    names = list(dict.fromkeys(row["method"] for row in rows))
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, model in zip(panels, models, strict=True):
        for place, name in enumerate(names):
            found = best(select(rows, delays=model), name)
            if found.seconds is None:
                panel.text(0, place, " not reached", va="center", fontsize=8)
                continue
            color = "tab:blue" if name.startswith("sync") else "tab:orange"
            panel.barh(place, found.mean, xerr=found.seconds.deviation, color=color, capsize=3)
        panel.set(xlabel="virtual time (s)", title=model, yticks=range(len(names)))
        panel.set_yticklabels(names)
    panels[0].invert_yaxis()


JOBS = (
    *(Job("inception_v3", {"replicas": 100 - b, "backups": b}) for b in (0, 2, 4, 6)),
    Job("inception_v3", {"strategy": "ps_async", "replicas": 100}),
)

EXPERIMENT = Experiment(
    name="time_to_accuracy",
    title="Time of 8 workers to a test error of 10 %: mean and standard deviation over seeds",
    settings={
        TINY: Race(Problem(Subset("digits", 400, 300, ()), 8, 8), 3, 1, 0.05, (0.5,), 0.5, 12, 24),
        SMALL: Race(
            Problem(Subset("mnist", 10_000, 2000, ()), 32, 16),
            8,
            3,
            0.05,
            (0.25, 0.5, 1.0),
            0.1,
            32,
            1536,
        ),
    },
    seeds=(1, 2, 3),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
    jobs=JOBS,
    prepare=lambda settings, data_dir, intra_op: digit_images.prepare(
        settings.problem.data, data_dir, intra_op
    ),
)
