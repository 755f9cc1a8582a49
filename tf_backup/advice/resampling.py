"""Confidence of a comparison of splits: a bootstrap over blocks of successive steps."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_backup.advice.survival import Floats, Ints

RESAMPLES = 2000
_NEIGHBOURS = 8  # Slowness that lasts for more steps is taken to last for a time.
_EQUAL = 1 + 1e-6  # Times that differ by less are equal; rounding explains the difference.


def fastest(times: Floats) -> Ints:
    """Return the index of the smallest time along the last axis; at equal times, the largest N.

    Times are those of N = 1, 2, ...; NaN for a split that is not compared.
    """
    times = np.where(np.isnan(times), np.inf, times)
    equal = times <= times.min(axis=-1, keepdims=True) * _EQUAL
    found: Ints = times.shape[-1] - 1 - np.argmax(equal[..., ::-1], axis=-1)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """What each block of successive steps adds to the time and to the updates of each split.

    Where updates were slow, each stands for more time than elsewhere, and a split that is less
    affected makes more updates in that time. So a step counts as often as the split would have made
    updates while the run made one. This is the run's time for a step over the split's, both as
    means over some neighbouring steps.

    Attributes:
      seconds: [blocks, splits] time of the updates.
      updates: [blocks, splits] their number.
    """

    seconds: Floats
    updates: Floats

    @classmethod
    def of(cls, steps: Floats, run: Floats) -> Blocks:
        """Return the blocks of replayed steps.

        Args:
          steps: [blocks, length, splits] time that each step takes with each split.
          run: [blocks, length] time that it takes with the run's own settings, up to a factor.
        """
        local = _around(run.reshape(-1, 1)) / _around(steps.reshape(-1, steps.shape[-1]))
        weights = local.reshape(steps.shape)
        return cls((weights * steps).sum(axis=1), weights.sum(axis=1))

    def mean(self) -> Floats:
        """Return [splits] the mean time between updates."""
        means: Floats = self.seconds.sum(axis=0) / self.updates.sum(axis=0)
        return means

    def resample(self, rng: np.random.Generator) -> Floats:
        """Return [RESAMPLES, splits] means over as many blocks as there are, with replacement.

        Blocks are drawn as a whole, so whatever successive steps, workers or splits have in common
        is kept.
        """
        count = len(self.seconds)
        drawn = rng.multinomial(count, np.full([count], 1 / count), size=RESAMPLES)
        means: Floats = (drawn @ self.seconds) / (drawn @ self.updates)
        return means


def _around(values: Floats) -> Floats:
    """Return, for each row, the mean of the `_NEIGHBOURS` rows around it, without itself.

    With itself, a single slow step would change its own weight.
    """
    if len(values) == 1:
        return values
    half = _NEIGHBOURS // 2
    sums = np.cumsum(np.pad(values, [(1, 0), (0, 0)]), axis=0)
    rows = np.arange(len(values))
    first, last = np.maximum(rows - half, 0), np.minimum(rows + half + 1, len(values))
    means: Floats = (sums[last] - sums[first] - values) / (last - first - 1)[:, None]
    return means


def interval(values: Floats, level: float) -> tuple[float, float]:
    """Return the interval that holds the share `level` of the values, with equal tails."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
