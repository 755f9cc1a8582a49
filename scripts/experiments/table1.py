"""Table 1: staleness by layer, in asynchronous training of 40 workers.

  python scripts/experiment.py table1      # some seconds on one core

The paper, Inception with 18 layers: a worker reads the parameters of each layer when its forward
pass reaches it, and sends the gradient of each layer when its backward pass has computed it. So
lower layers are staler. The values of the table are not known to us. The workshop version says that
an update of N workers is N - 1 steps old on average.

Here, only times are simulated, and nothing is trained. The assumptions: each layer takes an equal
part of the forward and of the backward pass; the backward pass takes twice as long; reading and
sending take no time; a gradient updates its layer as soon as it is sent. A worker begins anew at
once. How long both passes take is drawn for each gradient, from the delays fitted to the paper's
workers (`straggler_fit`). Beside it stands a worker of this library: it reads one version of all
layers, and one update has all its gradients (`tf_backup.simulation.timing`).

Agreement, stated before the run: lower layers are staler if the mean staleness falls from each
layer to the one above; the mean age is N - 1 if that of this library's workers is within 0.5.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.experiments.claims import FOUND, V1, Claim
from scripts.experiments.definition import PAPER, SMALL, TINY, Experiment, Point, Row, Tick
from scripts.experiments.spreads import Spread, select
from scripts.experiments.straggler_fit import fitted
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Durations, Floats, Ints
from tf_backup.simulation.timing import simulate

BY_LAYER, AT_ONCE = "layer by layer", "all at once"
FORWARD = 1 / 3  # Part of a worker's time.


@dataclasses.dataclass(frozen=True)
class Layers:
    """Settings.

    Attributes:
      workers: N.
      layers: number of layers; 0 is the lowest.
      gradients: gradients of each worker that are counted.
    """

    workers: int
    layers: int
    gradients: int


def points(settings: Layers) -> list[Point]:
    """Return both ways in which a worker can read and send."""
    del settings
    return [{"reads": BY_LAYER}, {"reads": AT_ONCE}]


@functools.lru_cache(maxsize=1)
def passes(settings: Layers, durations: Durations, seed: int) -> tuple[Floats, Floats]:
    """Return when each gradient is begun, and how long it takes; [gradients, workers] each.

    There are three times as many gradients as are counted. Workers begin at random times.
    """
    rng = np.random.default_rng(seed)
    shape = (3 * settings.gradients + 1, settings.workers)
    # One after another, as workers begin at different times.
    drawn = np.array([durations(rng, np.array([i % shape[1]]))[0] for i in range(np.prod(shape))])
    drawn = drawn.reshape(shape)
    drawn[0] *= rng.random(settings.workers)
    return np.cumsum(drawn, axis=0)[:-1], drawn[1:]


def ages(settings: Layers, layer: int, durations: Durations, seed: int) -> Ints:
    """Return the staleness of the gradients of one layer: its updates since the worker read it.

    Args:
      settings: workers and layers.
      layer: the layer, from 0.
      durations: how long both passes of a gradient take.
      seed: seed of the durations. Equal seeds give equal passes of all layers.
    """
    starts, lengths = passes(settings, durations, seed)
    part = layer / settings.layers
    read = starts + lengths * (FORWARD * part)
    sent = starts + lengths * (FORWARD + (1 - FORWARD) * (1 - part))
    updates = np.sort(sent, axis=None)
    # All workers are under way before and after these.
    inner = slice(settings.gradients, 2 * settings.gradients)
    before = np.searchsorted(updates, read[inner], side="right")
    found: Ints = np.searchsorted(updates, sent[inner], side="left") - before
    return found.ravel()


def measure(
    settings: Layers, point: Point, seed: int, data_dir: str | None, tick: Tick
) -> list[Row]:
    """Return the staleness of each layer."""
    del data_dir
    durations = fitted()
    if point["reads"] == AT_ONCE:
        policy = BackupPolicy.asynchronous(settings.workers)
        updates = settings.workers * settings.gradients
        counts = simulate(durations, policy, updates, seed=seed).staleness
        found = [np.repeat(np.arange(len(counts)), counts)] * settings.layers
    else:
        found = []
        for layer in range(settings.layers):
            tick(layer / settings.layers)
            found.append(ages(settings, layer, durations, seed))
    return [
        {
            "layer": layer,
            "min": int(own.min()),
            "mean": float(own.mean()),
            "median": float(np.median(own)),
            "max": int(own.max()),
            "deviation": float(own.std()),
        }
        for layer, own in enumerate(found)
    ]


def means(rows: Sequence[Row], reads: str) -> list[Spread]:
    """Return the mean staleness of each layer over seeds, from the lowest."""
    own = select(rows, reads=reads)
    layers = sorted({row["layer"] for row in own})
    return [Spread.of(row["mean"] for row in select(own, layer=layer)) for layer in layers]


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare with the text of section 2, and with that of the workshop version."""
    by_layer, at_once = means(rows, BY_LAYER), means(rows, AT_ONCE)[0]
    falls = all(low.mean > high.mean for low, high in itertools.pairwise(by_layer))
    return [
        Claim(
            "lower layers are staler, 40 asynchronous workers",
            "in words",
            FOUND,
            f"lowest layer: {by_layer[0].text('.1f')}; highest: {by_layer[-1].text('.1f')}; this "
            f"library: {at_once.text('.1f')} for all layers",
            "the mean falls from each layer to the one above",
            falls,
            "it follows from the order in which the model reads and sends, so it tests little; "
            "all layers take equally long",
        ),
        Claim(
            "with N asynchronous workers, an update is N - 1 steps old on average; N = 40",
            "39",
            V1,
            at_once.text(".2f"),
            "within 0.5, of this library's workers",
            abs(at_once.mean - 39) <= 0.5,
            "only times are simulated",
        ),
    ]


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw the mean staleness of each layer, and the standard deviation of gradients."""
    panel = figure.subplots()
    for reads in (BY_LAYER, AT_ONCE):
        own = select(rows, reads=reads)
        layers = sorted({row["layer"] for row in own})
        mean = np.array([spread.mean for spread in means(rows, reads)])
        each = [Spread.of(row["deviation"] for row in select(own, layer=n)).mean for n in layers]
        panel.plot(layers, mean, marker="o", label=f"read and sent {reads}")
        panel.fill_between(layers, mean - each, mean + each, alpha=0.15)
    panel.set(xlabel="layer, from the lowest", ylabel="staleness (updates)", ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="table1",
    title="Staleness by layer: mean, and standard deviation over gradients",
    settings={
        TINY: Layers(8, 4, 20),
        SMALL: Layers(40, 18, 500),
        PAPER: Layers(40, 18, 5000),
    },
    seeds=(1, 2, 3, 4, 5),
    points=points,
    measure=measure,
    claims=claims,
    draw=draw,
)
