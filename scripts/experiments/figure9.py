"""Figure 9: time of PixelCNN to a test loss, with one worker and with 8 and 16, sync or async.

  python scripts/experiment.py figure9      # about 6 minutes on one core, estimated

The paper, PixelCNN on CIFAR-10: one worker reaches a test loss of 2.183 nats in 40 h, synchronous
training (b = 1) in less than 13 h. Asynchronous training never reaches it, is worse than one
worker, and becomes worse from 8 to 16 workers.

Here, a narrow PixelCNN is trained on the 8 x 8 digits of scikit-learn, on a virtual cluster of 1, 8
and 16 workers. Gradients take as long as those of the paper's stragglers (`straggler_fit`). The
optimizer is the paper's, RMSProp with momentum, and so is the batch size of 4; the learning rate is
10 times the paper's, since the training is short, and constant. All trainings with several workers
take a third of the virtual time of the single worker. The loss to be reached is the single worker's
lowest, by seed.

Agreement, stated before the run: synchronous training with 16 workers needs at most 13/40 of the
single worker's time, with all seeds; asynchronous training never reaches the loss with any seed; it
becomes worse from 8 to 16 workers if the mean of the lowest losses rises by more than the larger
standard deviation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.experiments import digit_images
from scripts.experiments.claims import Claim
from scripts.experiments.definition import SMALL, TINY, Experiment, Job, Point, Row, Tick
from scripts.experiments.digit_images import Subset
from scripts.experiments.spreads import Spread, by_seed, select
from scripts.experiments.straggler_fit import fitted

SERIAL, SYNC, ASYNC = "one worker", "synchronous", "asynchronous"
_MOST_NATS = 1e3  # What a larger loss counts as, also Inf and NaN.
ARXIV = "found in arXiv 1702.05800"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Settings.

    Attributes:
      data: images; the channels are not used.
      workers: every number of workers, N + b, beyond one.
      seconds: virtual time of the single worker.
      tests: tests of its loss.
      part: part of that time that the others have.
      batch_size: images in a gradient.
      learning_rate: learning rate of RMSProp.
      features: features of the network's stacks.
      depth: gated layers.
    """

    data: Subset
    workers: tuple[int, ...]
    seconds: float
    tests: int
    part: float = 1 / 3
    batch_size: int = 4
    learning_rate: float = 1e-3
    features: int = 12
    depth: int = 2


def points(settings: Pixels) -> list[Point]:
    """Return the single worker, and both kinds of training with each number of workers."""
    several = [(kind, workers) for kind in (SYNC, ASYNC) for workers in settings.workers]
    return [{"kind": kind, "workers": workers} for kind, workers in [(SERIAL, 1), *several]]


def loss_of(model: Any, images: Any) -> float:
    """Return the mean test loss in nats per value; `_MOST_NATS` for Inf, NaN and more."""
    values = np.rint(images.test_x * 255).astype(np.int64)
    logits = model.predict_on_batch(images.test_x).astype(np.float64)
    with np.errstate(all="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        own = np.take_along_axis(shifted, values[..., None], axis=-1)[..., 0]
        nats = float(np.mean(np.log(np.exp(shifted).sum(axis=-1)) - own))
    return min(nats, _MOST_NATS) if math.isfinite(nats) else _MOST_NATS


def _cluster(settings: Pixels, point: Point, seed: int, images: Any) -> tuple[Any, Any]:
    """Return a new model, and the virtual cluster that trains it."""
    import keras
    import tensorflow as tf

    from models import pixelcnn
    from tf_backup.keras.simulated import virtual_cluster
    from tf_backup.policy import BackupPolicy

    keras.utils.set_random_seed(seed)
    model = pixelcnn.build(
        images.x.shape[1:], features=settings.features, depth=settings.depth, size=3
    )
    optimizer = keras.optimizers.RMSprop(settings.learning_rate, rho=0.95, momentum=0.9)
    model.compile(optimizer, pixelcnn.compile_arguments()["loss"], jit_compile=False)
    workers = point["workers"]
    policy = BackupPolicy.asynchronous(workers)
    if point["kind"] == SYNC:
        policy = BackupPolicy(workers - 1, 1)

    def of_worker(context: Any) -> Any:
        own = slice(context.input_pipeline_id, None, workers)
        x = images.x[own]
        values = np.rint(x * 255).astype(np.int32)
        dataset = tf.data.Dataset.from_tensor_slices((x, values))
        dataset = dataset.shuffle(len(x), seed=1000 * seed + context.input_pipeline_id)
        return dataset.repeat().batch(settings.batch_size)

    # A training may diverge, so that gradients with NaN are kept.
    return model, virtual_cluster(
        model, policy, fitted(), of_worker, seed=seed, on_nonfinite="keep"
    )


def measure(
    settings: Pixels, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Train for some virtual time, and return the test loss at equal distances."""
    images = digit_images.load(settings.data, data_dir)
    model, cluster = _cluster(settings, point, seed, images)
    tests = settings.tests
    if point["kind"] != SERIAL:
        tests = max(1, round(tests * settings.part))
    found: list[Row] = []
    while len(found) < tests:
        seconds = (len(found) + 1) * settings.seconds / settings.tests
        (update,) = cluster.run(1)
        tick(update.time * len(found) / seconds / tests)
        if update.time >= seconds:
            found.append({"seconds": update.time, "nats": loss_of(model, images)})
    return found


def lowest(rows: Sequence[Row]) -> float:
    """Return the lowest loss of one training."""
    return float(min(row["nats"] for row in rows))


def reached(rows: Sequence[Row], nats: float) -> float:
    """Return when one training first has a loss; infinity if it never has."""
    return float(min((row["seconds"] for row in rows if row["nats"] <= nats), default=math.inf))


def shares(rows: Sequence[Row], kind: str, workers: int) -> list[float]:
    """Return the time to the single worker's lowest loss, relative to its own, for each seed."""
    found = []
    for seed in sorted({row["seed"] for row in rows}):
        serial = select(rows, kind=SERIAL, seed=seed)
        goal = lowest(serial)
        own = select(rows, kind=kind, workers=workers, seed=seed)
        found.append(reached(own, goal) / reached(serial, goal))
    return found


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare with the text of section 4.3."""
    few, many = min(r["workers"] for r in select(rows, kind=SYNC)), max(r["workers"] for r in rows)
    sync = shares(rows, SYNC, many)
    late = [each for n in (few, many) for each in shares(rows, ASYNC, n)]
    serial, async_few, async_many = (
        by_seed(select(rows, kind=kind, workers=n), lowest)
        for kind, n in ((SERIAL, 1), (ASYNC, few), (ASYNC, many))
    )
    fast = sum(each <= 13 / 40 for each in sync)
    losses = (
        f"lowest losses: one worker {serial.text('.3f')}, {few} asynchronous "
        f"{async_few.text('.3f')}, {many} {async_many.text('.3f')} nats"
    )
    why = (
        "8 x 8 digits, a narrow network, a short training; a constant learning rate, 10 times the "
        "paper's"
    )
    reached_by = sum(math.isfinite(each) for each in late)
    times = [each for each in sync if math.isfinite(each)]
    shown = f"; {Spread.of(times).text()} with {len(times)} that reach it" if times else ""
    return [
        Claim(
            f"time of {many} synchronous workers to a single worker's loss, relative to its own",
            "less than 13 h / 40 h = 0.33",
            ARXIV,
            f"0.33 or less with {fast} of {len(sync)} seeds{shown}",
            "at most 13/40, with all seeds",
            fast == len(sync),
            why,
        ),
        Claim(
            "asynchronous training never reaches the single worker's loss",
            "in words",
            ARXIV,
            f"{reached_by} of {len(late)} trainings reach it; {losses}",
            "none does",
            reached_by == 0,
            f"{why}; it had a third of the single worker's time",
        ),
        Claim(
            f"asynchronous training becomes worse from {few} to {many} workers",
            "in words",
            ARXIV,
            losses,
            "the mean rises by more than the larger deviation",
            async_many.mean - async_few.mean > max(async_few.deviation, async_many.deviation),
            why,
        ),
    ]


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the test loss by virtual time."""
    panel = figure.subplots()
    for kind, workers in dict.fromkeys((row["kind"], row["workers"]) for row in rows):
        own = select(rows, kind=kind, workers=workers)
        seeds = [select(own, seed=seed) for seed in sorted({row["seed"] for row in own})]
        seconds = np.mean([[row["seconds"] for row in each] for each in seeds], axis=0)
        nats = np.mean([[row["nats"] for row in each] for each in seeds], axis=0)
        label = kind if kind == SERIAL else f"{workers}, {kind}"
        panel.plot(seconds, nats, "--" if kind == ASYNC else "-", label=label)
    panel.set(xlabel="virtual time (s)", ylabel="test loss (nats per value)")
    panel.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="figure9",
    title="Test loss of PixelCNN by virtual time: mean over seeds",
    settings={
        TINY: Pixels(Subset("digits", 200, 50, ()), (3,), 12.0, 3),
        SMALL: Pixels(Subset("digits", 1400, 300, ()), (8, 16), 900.0, 15),
    },
    seeds=(1, 2, 3),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
    jobs=tuple(
        Job("pixelcnn", {"strategy": strategy, "replicas": n, "backups": b})
        for strategy, n, b in (
            ("ps", 1, 0),
            ("ps", 7, 1),
            ("ps", 15, 1),
            ("ps_async", 8, 0),
            ("ps_async", 16, 0),
        )
    ),
    prepare=lambda settings, data_dir, intra_op: digit_images.prepare(
        settings.data, data_dir, intra_op
    ),
)
