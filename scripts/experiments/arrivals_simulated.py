"""Arrivals of the k-th of 100 gradients in synchronous iterations without backups, simulated.

All workers begin an iteration together, as in the paper's measurement (section 3.1).
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from scripts.experiments.straggler_fit import fitted
from tf_backup.simulation.delays import Floats


@dataclasses.dataclass(frozen=True)
class Iterations:
    """Settings.

    Attributes:
      workers: number of workers.
      iterations: simulated iterations of a seed.
    """

    workers: int
    iterations: int


@functools.lru_cache(maxsize=4)
def arrivals(settings: Iterations, shape: float, seed: int) -> Floats:
    """Return [iterations, workers] seconds from the start to the k-th arrival, k from 1."""
    rng, delays = np.random.default_rng(seed), fitted(shape)
    workers = np.arange(settings.workers)
    times = np.stack([delays(rng, workers) for _ in range(settings.iterations)])
    times.sort(axis=1)
    return times
