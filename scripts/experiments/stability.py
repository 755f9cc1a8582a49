"""Language model: stability of 32 workers at large learning rates, in synchronous training or not.

  python scripts/experiment.py stability --data_dir=DIR      # about 10 minutes on one core

The workshop version of the paper, a character model with 32 workers: asynchronous training is much
less stable; synchronous training is stable even if the learning rate is 100 times as large. It
gives no other settings.

Here, a small LSTM is trained on the characters of tiny_shakespeare, with Adagrad at multiples of
0.2, the rate of the model that the paper's was based on (rafaljozefowicz/lm), and without clipping.
An asynchronous update is one gradient, of one of 32 workers of a virtual cluster. A synchronous
update is the mean of 32 gradients, so it is computed as one gradient of all their text. Both use
equally many gradients, so there are 32 times as many asynchronous updates. Their learning rate is
not divided by 32, as the paper does not divide it.

A training is stable if it ends with a lower loss on held-out text than the frequencies of
characters have, which know no context. The largest stable rate is the largest one at which the
trainings of all seeds are stable. (At small rates, a training may be too slow for that.)

Agreement, stated before the run: the largest stable rate of synchronous training is at least 100
times that of asynchronous training.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scripts.experiments.claims import V1, Claim
from scripts.experiments.definition import SMALL, TINY, Experiment, Job, Point, Row, Tick
from scripts.experiments.spreads import Spread, select

SYNC, ASYNC = "synchronous", "asynchronous"
PAPER_FACTOR = 100
_MOST_NATS = 1e3  # What a larger loss counts as, also Inf and NaN.

Array = Any  # of NumPy


@dataclasses.dataclass(frozen=True)
class Stability:
    """Settings.

    Attributes:
      dataset: name of a text.
      rates: every learning rate of Adagrad.
      workers: workers, and gradients in a synchronous update.
      batch_size: windows of text in a gradient.
      steps: characters in a window.
      units: cells of the LSTM.
      updates: synchronous updates of a training.
      held_out: windows of held-out text.
      embedding: size of a character's embedding.
      accumulator: Adagrad's sum of squared gradients at first.
    """

    dataset: str
    rates: tuple[float, ...]
    workers: int
    batch_size: int
    steps: int
    units: int
    updates: int
    held_out: int
    embedding: int = 16
    accumulator: float = 1.0


@functools.lru_cache(maxsize=1)
def text(settings: Stability, data_dir: str | None) -> tuple[Array, Array, int]:
    """Return the characters to train on, those held out ([characters] int32), and their number.

    Raises:
      FileNotFoundError: if the data set is missing; the message says how to get it.
    """
    from models.data import loading

    data = loading.load(settings.dataset, data_dir, steps=settings.steps)
    tokens: Any = data.source
    return tokens.tokens["train"], tokens.tokens["validation"], data.classes


def prepare(settings: Stability, data_dir: str | None, intra_op: int) -> None:
    """Load the text, and limit the threads of TensorFlow."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    text(settings, data_dir)


def points(settings: Stability) -> list[Point]:
    """Return each learning rate, for both kinds of training."""
    return [{"kind": kind, "rate": rate} for kind in (SYNC, ASYNC) for rate in settings.rates]


def windows(tokens: Array, count: int, steps: int, rng: np.random.Generator) -> Array:
    """Return windows from random places of a text, [count, steps + 1] int32."""
    starts = rng.integers(len(tokens) - steps, size=count)
    return tokens[starts[:, None] + np.arange(steps + 1)]


def frequency_nats(train: Array, held_out: Array, vocabulary: int) -> float:
    """Return the loss of the frequencies of characters, in nats per character."""
    counts = np.bincount(train, minlength=vocabulary) + 1
    return float(-np.mean(np.log(counts / counts.sum())[held_out]))


def loss_of(logits: Array, targets: Array) -> float:
    """Return the mean of -log p in nats; that of Inf and NaN, and the largest, is `_MOST_NATS`."""
    with np.errstate(all="ignore"):
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        own = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
        nats = float(np.mean(np.log(np.exp(shifted).sum(axis=-1)) - own))
    return min(nats, _MOST_NATS) if np.isfinite(nats) else _MOST_NATS


def _batches(settings: Stability, tokens: Array, seed: int) -> Callable[[Any], Any]:
    """Return a function from a worker's `tf.distribute.InputContext` to its batches."""
    import tensorflow as tf

    def of_worker(context: Any) -> Any:
        rng = np.random.default_rng([seed, context.input_pipeline_id])
        # As many windows as a worker needs on average, and again after that.
        count = settings.updates * settings.batch_size
        own = windows(tokens, count, settings.steps, rng)
        dataset = tf.data.Dataset.from_tensor_slices((own[:, :-1], own[:, 1:]))
        return dataset.repeat().batch(settings.batch_size, drop_remainder=True)

    return of_worker


def _train_sync(settings: Stability, model: Any, tokens: Array, seed: int, tick: Tick) -> None:
    rng = np.random.default_rng(seed)
    count = settings.workers * settings.batch_size
    for update in range(settings.updates):
        batch = windows(tokens, count, settings.steps, rng)
        model.train_on_batch(batch[:, :-1], batch[:, 1:])
        tick((update + 1) / settings.updates)


def _train_async(settings: Stability, model: Any, tokens: Array, seed: int, tick: Tick) -> None:
    from tf_backup.keras.simulated import virtual_cluster
    from tf_backup.policy import BackupPolicy
    from tf_backup.simulation.delays import Exponential

    updates = settings.updates * settings.workers
    cluster = virtual_cluster(
        model,
        BackupPolicy.asynchronous(settings.workers),
        Exponential(offset=0.5, mean=0.5),
        _batches(settings, tokens, seed),
        seed=seed,
        on_nonfinite="keep",  # A training may diverge.
    )
    cluster.run(updates, lambda made: tick(made.step / updates))


def measure(
    settings: Stability, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Train with a learning rate, and test on held-out text."""
    import keras

    from models import language_model

    train, held_out, vocabulary = text(settings, data_dir)
    keras.utils.set_random_seed(seed)
    model = language_model.build(vocabulary, embedding=settings.embedding, units=settings.units)
    optimizer = keras.optimizers.Adagrad(
        point["rate"], initial_accumulator_value=settings.accumulator
    )
    model.compile(optimizer, jit_compile=False, **language_model.compile_arguments())
    run = _train_sync if point["kind"] == SYNC else _train_async
    run(settings, model, train, seed, tick)
    tested = windows(held_out, settings.held_out, settings.steps, np.random.default_rng(0))
    nats = loss_of(model.predict_on_batch(tested[:, :-1]), tested[:, 1:])
    known = frequency_nats(train, tested[:, 1:], vocabulary)
    return [{"nats": nats, "frequency_nats": known, "stable": int(nats < known)}]


def largest_stable(rows: Sequence[Row], kind: str) -> float:
    """Return the largest rate at which the trainings of all seeds are stable; 0 if none is."""
    own = select(rows, kind=kind)
    rates = {float(row["rate"]) for row in own}
    failed = {float(row["rate"]) for row in own if not row["stable"]}
    return max(rates - failed, default=0.0)


def stable_seeds(rows: Sequence[Row], kind: str) -> str:
    """Return how many trainings are stable, from the smallest rate to the largest."""
    own = select(rows, kind=kind)
    rates = sorted({row["rate"] for row in own})
    return " ".join(str(sum(row["stable"] for row in select(own, rate=rate))) for rate in rates)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare with the text of the workshop version."""
    sync, late = largest_stable(rows, SYNC), largest_stable(rows, ASYNC)
    rates = sorted({row["rate"] for row in rows})
    ends = [
        f"{kind} {Spread.of(row['nats'] for row in select(rows, kind=kind, rate=rate)).text()}"
        for kind, rate in ((SYNC, sync), (ASYNC, late))
        if rate
    ]
    ours = f"{sync:g} is the largest with synchronous training, {late:g} with asynchronous"
    seeds = [f"{kind} {stable_seeds(rows, kind)}" for kind in (SYNC, ASYNC)]
    return [
        Claim(
            "learning rates at which 32 workers are stable, synchronous against asynchronous",
            "100 times as large",
            V1,
            f"{ours}; nats per character at these: {', '.join(ends) or 'none'}; "
            f"stable seeds by rate: {', '.join(seeds)}",
            f"the ratio is {PAPER_FACTOR} or more",
            sync >= PAPER_FACTOR * late and sync > 0,
            f"only {', '.join(f'{rate:g}' for rate in rates)} were tried; a small LSTM; a "
            "synchronous training has so few updates that it counts as unstable where it is slow; "
            "the asynchronous rate is not divided by 32, so at equal rates it moves further",
        )
    ]


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the loss on held-out text by learning rate, one mark for each training."""
    panel = figure.subplots()
    for kind, marker in ((SYNC, "o"), (ASYNC, "^")):
        own = select(rows, kind=kind)
        rates = sorted({row["rate"] for row in own})
        means = [Spread.of(r["nats"] for r in select(own, rate=rate)).mean for rate in rates]
        (line,) = panel.plot(rates, means, label=f"{kind}: mean")
        panel.plot(
            [row["rate"] for row in own],
            [row["nats"] for row in own],
            marker,
            color=line.get_color(),
        )
    known = rows[0]["frequency_nats"]
    panel.axhline(known, color="0.6", linestyle=":", label="frequencies of characters")
    panel.set(xlabel="learning rate of Adagrad", ylabel="held-out loss (nats per character)")
    panel.set(xscale="log", yscale="log")
    panel.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="stability",
    title="Held-out loss of 32 workers against the learning rate, one mark for each seed",
    settings={
        TINY: Stability("topics", (0.2, 20.0), 4, 2, 8, 8, 3, 20),
        SMALL: Stability("tiny_shakespeare", (0.02, 0.2, 2.0, 20.0, 200.0), 32, 4, 32, 64, 64, 256),
    },
    seeds=(1, 2, 3),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
    jobs=tuple(
        Job("word_lstm", {"strategy": strategy, "learning_rate": rate})
        for strategy in ("ps", "ps_async")
        for rate in (0.2, 2.0, 20.0)
    ),
    prepare=prepare,
)
