"""Training of a small, fully connected network on a virtual cluster, tested now and then."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from scripts.experiments import digit_images
from scripts.experiments.definition import Tick
from scripts.experiments.digit_images import Images, Subset
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Durations


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data and network, as settings of an experiment.

    Attributes:
      data: images; its channels are not used.
      hidden: units of the hidden layer.
      batch_size: B, images in one gradient.
    """

    data: Subset
    hidden: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Tested:
    """A test during a training.

    Attributes:
      updates: updates made before it.
      seconds: virtual time of the last of them.
      error: test error; 1 if the network has NaN.
    """

    updates: int
    seconds: float
    error: float


def network(problem: Problem, images: Images, optimizer: Any, seed: int) -> Any:
    """Return a new compiled network, whose weights depend on the seed only."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(images.x.shape[1:]),
            layers.Flatten(),
            layers.Dense(problem.hidden, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    return model


def train(
    problem: Problem,
    images: Images,
    optimizer: Any,
    policy: BackupPolicy,
    durations: Durations,
    *,
    every: int,
    updates: int,
    seed: int,
    until: float = 0.0,
    tick: Tick = lambda part: None,
) -> list[Tested]:
    """Train a new network and return its tests.

    The training ends early at the first test with an error of at most `until`, and at a test that
    finds NaN.

    Args:
      problem: data and network.
      images: images of the problem.
      optimizer: a plain Keras optimizer.
      policy: N, b and the bound on staleness.
      durations: how long workers compute.
      every: updates between two tests.
      updates: updates of the whole training, rounded up to a multiple of `every`.
      seed: seed of the weights, the batches and the durations.
      until: test error that ends the training.
      tick: called with the part that is done.
    """
    from tf_backup.keras.simulated import virtual_cluster

    model = network(problem, images, optimizer, seed)
    cluster = virtual_cluster(
        model,
        policy,
        durations,
        digit_images.batches(images, problem.batch_size, seed),
        seed=seed,
        on_nonfinite="keep",  # A training may diverge.
    )
    tests: list[Tested] = []
    while len(tests) * every < updates:
        last = cluster.run(every)[-1]
        tests.append(Tested(last.step + 1, last.time, digit_images.error_of(model, images)))
        tick(last.step / updates)
        if tests[-1].error <= until or not math.isfinite(last.logs["loss"]):
            break
    return tests


def staleness_of(
    policy: BackupPolicy, durations: Durations, updates: int, seed: int
) -> Sequence[int]:
    """Return the staleness of each update's gradient in `train`, known before the training.

    What workers compute has no influence on when, so the same simulation without gradients has the
    same updates.

    Args:
      policy: a policy with N = 1.
      durations: how long workers compute.
      updates: number of updates.
      seed: the seed that `train` has.
    """
    from tf_backup.simulation.virtual_gate import NoWork, VirtualGate

    gate = VirtualGate(durations, policy, 0.0, seed)
    return [gate.update(NoWork()).staleness[0] for _ in range(updates)]


def schedule(rates: Sequence[float]) -> Any:
    """Return a Keras schedule with a learning rate for each update."""
    import keras
    import numpy as np

    class Listed(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return keras.ops.take(np.asarray(rates, np.float32), keras.ops.cast(step, "int32"))

    return Listed()
