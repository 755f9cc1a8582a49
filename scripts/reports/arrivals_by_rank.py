"""Time from the start of a step until its k-th gradient arrives (the paper's figures 3 and 4)."""

from __future__ import annotations

import dataclasses

import numpy as np

from scripts.reports.recording import Floats, Ints, Recording, ranks
from tf_backup.timeline.schema import DUPLICATE, LOST

_QUANTILES = np.linspace(0, 1, 201)  # Points of a curve.


@dataclasses.dataclass(frozen=True)
class ArrivalsByRank:
    """Times of the k-th gradient of each step, by the gate's clock.

    A step starts when the update before is released, so the first step of a run has no start and
    is left out. A gradient that arrives after its step counts at its real time. Of some steps, a
    slow worker computes no gradient: then the last ones never arrive. If N changes, the steps with
    another N than most are left out, too.

    Attributes:
      replicas: N, that of most updates.
      times: [steps, N + b] seconds, ascending in each row; inf if it never arrived.
    """

    replicas: int
    times: Floats

    @classmethod
    def of(cls, recording: Recording) -> ArrivalsByRank:
        """Return the times in a recording."""
        step = recording.computed_for
        start = np.where(step >= 0, recording.starts[step], np.nan)
        verdict = recording.contributions["verdict"]
        counted = np.isfinite(start) & (verdict != LOST) & (verdict != DUPLICATE)
        chosen = np.flatnonzero(counted)
        elapsed = np.maximum(recording.arrived - start, 0.0)
        chosen = chosen[np.lexsort((elapsed[chosen], step[chosen]))]
        rank = ranks(step[chosen])
        fits = rank < recording.settings.workers
        times = np.full((len(recording.updates), recording.settings.workers), np.inf)
        times[step[chosen[fits]], rank[fits]] = elapsed[chosen[fits]]
        usual = recording.sizes.known == recording.sizes.usual
        return cls(recording.sizes.usual, times[np.isfinite(recording.starts) & usual])

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times)

    @property
    def ranks(self) -> Ints:
        """[N + b] k, from 1."""
        return np.arange(1, self.times.shape[1] + 1)

    @property
    def share(self) -> Floats:
        """[N + b] share of the steps whose k-th gradient arrived."""
        return np.asarray(np.isfinite(self.times).mean(axis=0))

    @property
    def mean(self) -> Floats:
        """[N + b] mean over the steps where it arrived; NaN if it never did."""
        arrived = np.isfinite(self.times)
        total = np.where(arrived, self.times, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / arrived.sum(axis=0))

    def quantile(self, q: float) -> Floats:
        """[N + b] quantile over all steps; inf if it lies among those that never arrived."""
        return np.asarray(np.quantile(self.times, q, axis=0, method="inverted_cdf"))

    def curve(self, k: int) -> tuple[Floats, Floats]:
        """Return the distribution of the k-th: seconds, and the share of all steps until then."""
        arrived = np.sort(self.times[np.isfinite(self.times[:, k - 1]), k - 1])
        if not len(arrived):
            return arrived, arrived
        at = np.quantile(arrived, _QUANTILES, method="inverted_cdf")
        return at, np.searchsorted(arrived, at, side="right") / self.steps

    def shown_ranks(self) -> list[int]:
        """Return the few k whose distributions to show: as in the paper, above all the last."""
        replicas, workers = self.replicas, self.times.shape[1]
        wanted = [1, round(workers / 2), round(0.9 * workers), replicas - 1, replicas]
        wanted += [replicas + 1, workers]
        return sorted({k for k in wanted if 1 <= k <= workers})
