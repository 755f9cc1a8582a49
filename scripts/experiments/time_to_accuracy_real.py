"""Test error over time with one slow worker on real processes: b = 0, b = 1, and asynchronous.

  python scripts/experiment.py time_to_accuracy_real --data_dir=DIR    # about 8 minutes on one core

The paper has no such comparison; its reviewers asked for it. Here, 4 worker processes and a
parameter server on one machine train a small network on 4,000 images of MNIST with SGD. A gradient
is so small that each worker waits 0.06 s before each batch, as if it computed; worker 3 waits
0.3 s. The learning rate is proportional to N, as in the paper, and is that of `time_to_accuracy`
without momentum. The training stops for each test, and the clock with it.

Agreement, stated before the run: b = 1 is sooner at a test error of at most 10 % than b = 0, and
than asynchronous, if the difference of the means is more than the larger standard deviation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from scripts.experiments import digit_images, virtual_training
from scripts.experiments.claims import Claim
from scripts.experiments.definition import SMALL, TINY, Experiment, Point, Row, Tick
from scripts.experiments.digit_images import Images, Subset
from scripts.experiments.spreads import Spread, select
from scripts.experiments.time_to_accuracy import ASKED, JOBS
from scripts.experiments.virtual_training import Problem
from tf_backup.policy import BackupPolicy

NEVER = float("inf")


@dataclasses.dataclass(frozen=True)
class Processes:
    """Settings.

    Attributes:
      problem: data and network.
      workers: number of workers; the last one is slow.
      wait_s: time that a worker waits before each batch, in seconds.
      slow_s: that of the slow worker.
      learning_rate: learning rate of one worker.
      error: test error to reach.
      every: gradients between two tests.
      tests: tests of a training.
    """

    problem: Problem
    workers: int
    wait_s: float
    slow_s: float
    learning_rate: float
    error: float
    every: int
    tests: int


def policies(settings: Processes) -> dict[str, BackupPolicy]:
    """Return the policies by name."""
    workers = settings.workers
    return {
        "b = 0": BackupPolicy(workers, 0),
        "b = 1": BackupPolicy(workers - 1, 1),
        "asynchronous": BackupPolicy.asynchronous(workers),
    }


def points(settings: Processes) -> list[Point]:
    """Return each policy."""
    return [{"method": name} for name in policies(settings)]


def batches(settings: Processes, images: Images, seed: int) -> Any:
    """Return a function from a worker's `tf.distribute.InputContext` to its delayed batches."""
    from tf_backup import delay

    of_worker = digit_images.batches(images, settings.problem.batch_size, seed)

    def delayed(context: Any) -> Any:
        slow = context.input_pipeline_id == settings.workers - 1
        return delay(of_worker(context), settings.slow_s if slow else settings.wait_s)

    return delayed


def measure(
    settings: Processes, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Train on a local cluster, and return each test."""
    import keras

    import tf_backup

    images = digit_images.standardized(settings.problem.data, data_dir)
    policy = policies(settings)[point["method"]]
    every = max(1, round(settings.every / policy.replicas))
    rate = settings.learning_rate * policy.replicas
    with tf_backup.LocalCluster(settings.workers, 1) as local:
        strategy = local.strategy()
        copy = virtual_training.network(settings.problem, images, "sgd", seed)  # For tests.
        with strategy.scope():
            optimizer = tf_backup.wrap(
                keras.optimizers.SGD(0.0),  # At first, nothing is learned.
                policy.replicas,
                policy.backups,
                max_staleness=policy.max_staleness,
            )
            model = virtual_training.network(settings.problem, images, optimizer, seed)
        recorder = _recorder(settings, images, copy, rate, tick)
        model.fit(
            batches(settings, images, seed),
            epochs=1 + settings.tests,
            steps_per_epoch=every,
            callbacks=[recorder],
            verbose=0,
        )
    tests: list[tuple[int, float, float]] = recorder.tests
    return [
        {
            "updates": number * every,
            "gradients": number * every * policy.replicas,
            "seconds": seconds,
            "error": error,
            "learning_rate": rate,
        }
        for number, seconds, error in tests
    ]


def _recorder(settings: Processes, images: Images, copy: Any, rate: float, tick: Tick) -> Any:
    """Return a callback that tests after each epoch; its `tests` are (epoch, seconds, error).

    Nothing is learned in epoch 0, in which the workers load their program. What is tested is a copy
    of the model in this process.
    """
    import keras

    class Recorder(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.tests: list[tuple[int, float, float]] = []
            self._seconds, self._began = 0.0, 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._began = time.monotonic()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                self._seconds += time.monotonic() - self._began
            else:
                self.model.optimizer.learning_rate = rate
            copy.set_weights(self.model.get_weights())
            error = digit_images.error_of(copy, images)
            self.tests.append((epoch, self._seconds, error))
            tick(epoch / settings.tests)

    return Recorder()


def reached(rows: Sequence[Row], error: float) -> float:
    """Return the seconds until a test error, from the rows of one training."""
    return min((row["seconds"] for row in rows if row["error"] <= error), default=NEVER)


def times(rows: Sequence[Row], method: str, error: float) -> Spread | None:
    """Return the seconds until a test error over seeds; None if one never reached it."""
    own = select(rows, method=method)
    seeds = dict.fromkeys(row["seed"] for row in own)
    found = [reached(select(own, seed=seed), error) for seed in seeds]
    return None if NEVER in found else Spread.of(found)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Answer the reviewers' question for real processes."""
    error, found = 0.1, []
    backup = times(rows, "b = 1", error)
    for method in ("b = 0", "asynchronous"):
        other = times(rows, method, error)
        if backup is None or other is None:
            continue
        found.append(
            Claim(
                f"b = 1 reaches a test error of 10 % sooner than {method}, real processes, one "
                "slow worker of 4",
                "-",
                ASKED,
                f"b = 1: {backup.text('.1f', ' s')}; {method}: {other.text('.1f', ' s')}",
                "by more than the larger deviation",
                backup.mean + max(backup.deviation, other.deviation) < other.mean,
                "4 processes that wait most of the time; one learning rate, without momentum",
            )
        )
    return found


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the test error over time: each seed, and the mean over seeds of error and time."""
    panel = figure.subplots()
    colors = ("tab:red", "tab:blue", "tab:orange")
    for method, color in zip(dict.fromkeys(row["method"] for row in rows), colors, strict=True):
        own = select(rows, method=method)
        for seed in dict.fromkeys(row["seed"] for row in own):
            one = select(own, seed=seed)
            panel.plot(*_curve(one), color=color, alpha=0.25, linewidth=1)
        mean = [
            {
                name: Spread.of(row[name] for row in own if row["updates"] == updates).mean
                for name in ("seconds", "error")
            }
            for updates in dict.fromkeys(row["updates"] for row in own)
        ]
        panel.plot(*_curve(mean), color=color, marker="o", markersize=3, label=method)
    panel.axhline(10, color="0.6", linestyle=":")
    panel.set(xlabel="time (s)", ylabel="test error (%)", yscale="log", xlim=(0, None))
    panel.set_yticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    panel.minorticks_off()
    panel.legend()


def _curve(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [row["seconds"] for row in rows], [100 * row["error"] for row in rows]


EXPERIMENT = Experiment(
    name="time_to_accuracy_real",
    title="Test error of 4 worker processes, one of them slow: mean over seeds, and each seed",
    settings={
        TINY: Processes(
            Problem(Subset("digits", 400, 300, ()), 8, 8), 2, 0.01, 0.05, 0.05, 0.1, 4, 2
        ),
        SMALL: Processes(
            Problem(Subset("mnist", 4000, 2000, ()), 32, 16), 4, 0.06, 0.3, 0.05, 0.1, 64, 12
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
