"""How sure a comparison of splits is: a bootstrap over blocks of successive steps."""

from __future__ import annotations

import numpy as np

from tf_backup.advice.survival import Floats

RESAMPLES = 2000
_EQUAL = 1 + 1e-6  # Times that differ by less are equal; rounding explains the difference.


def fastest(times: Floats) -> Floats:
    """Return the index of the smallest time along the last axis; at equal times, the largest N.

    Times are those of N = 1, 2, ...; NaN for a split that is not compared.
    """
    times = np.where(np.isnan(times), np.inf, times)
    equal = times <= times.min(axis=-1, keepdims=True) * _EQUAL
    found: Floats = times.shape[-1] - 1 - np.argmax(equal[..., ::-1], axis=-1)
    return found


def resample(blocks: Floats, rng: np.random.Generator) -> Floats:
    """Return [RESAMPLES, splits] means over as many blocks as there are, drawn with replacement.

    Args:
      blocks: [blocks, splits] a value for each block. Blocks are drawn as a whole, so whatever
        successive steps, workers or splits have in common is kept.
      rng: source of the draws.
    """
    count = len(blocks)
    weights = rng.multinomial(count, np.full([count], 1 / count), size=RESAMPLES)
    means: Floats = weights @ blocks / count
    return means


def interval(values: Floats, level: float) -> tuple[float, float]:
    """Return the interval that holds the share `level` of the values, with equal tails."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
