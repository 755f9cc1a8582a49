"""Cost of slow workers: the recorded durations, replayed with some of them made shorter.

A what-if analysis as in ByteDance's study of stragglers (Lin et al., Understanding Stragglers in
Large Model Training Using What-if Analysis, 2025), under the rules of the gate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from scripts.reports.recording import Floats, Ints, Recording
from tf_backup.policy import BackupPolicy
from tf_backup.simulation import timing

_UPDATES = 1000  # To simulate, at most.
_BLOCK = 50  # Gradients in a row that stay together where only some are replayed.
_WORKERS = 12  # That are made faster one at a time, at most.
_SHORTEST_S = 1e-6


@dataclasses.dataclass(frozen=True)
class Slowdowns:
    """Seconds per update in replays.

    Attributes:
      recorded: as recorded, without the first update of each run.
      replayed: with all durations as recorded; near `recorded` if the replay can be trusted.
      usual: the median of the workers' median durations, in seconds.
      none_slow: with each slower worker's durations scaled to the usual median.
      none_long: with no gradient taking longer than the usual one.
      without: the same for one worker's gradients only, by worker: for the slowest workers, and
        what gains most first.
    """

    recorded: float
    replayed: float
    usual: float
    none_slow: float
    none_long: float
    without: dict[int, float]

    def gain(self, seconds_per_update: float) -> float:
        """Return the share of the replayed time that another replay saves."""
        return 1 - seconds_per_update / self.replayed


class Replay:
    """Durations in the order in which each worker had them, again from the start at the end.

    Args:
      series: for each worker, [gradients] seconds.
    """

    def __init__(self, series: Sequence[Floats]) -> None:
        self._flat = np.maximum(np.concatenate(series), _SHORTEST_S)
        self._lengths = np.array([len(each) for each in series])
        self._first = np.cumsum(self._lengths) - self._lengths
        self._next = np.zeros_like(self._lengths)

    def __call__(self, rng: np.random.Generator, workers: Ints) -> Floats:
        """Return the next duration of each of some workers."""
        del rng
        at = self._first[workers] + self._next[workers] % self._lengths[workers]
        self._next[workers] += 1
        return np.asarray(self._flat[at])


def slowdowns(recording: Recording) -> Slowdowns | None:
    """Replay a recording; None if there is too little to replay, or if N changed."""
    took = recording.released - recording.starts
    series = _series(recording)
    replicas = recording.sizes.usual
    if not recording.sizes.fixed or len(series) < replicas or not np.isfinite(took).any():
        return None
    policy = BackupPolicy(replicas, len(series) - replicas, recording.settings.max_staleness)
    update_s = float(np.nanmedian(recording.update_seconds))
    updates = int(np.clip(np.isfinite(took).sum(), 2, _UPDATES))

    def replay(changed: Sequence[Floats]) -> float:
        replayed = timing.simulate(Replay(changed), policy, updates, update_s=update_s)
        return replayed.seconds_per_update

    workers, durations = list(series), list(series.values())
    medians = np.array([np.median(each) for each in durations])
    usual = float(np.median(medians))
    excess = np.array([np.maximum(each - usual, 0).mean() for each in durations])
    slowest = [index for index in np.argsort(-excess)[:_WORKERS].tolist() if excess[index] > 0]
    scale = np.minimum(1.0, usual / medians)
    without = {
        workers[index]: replay(
            [*durations[:index], np.minimum(durations[index], usual), *durations[index + 1 :]]
        )
        for index in slowest
    }
    return Slowdowns(
        recorded=float(np.nanmean(took)),
        replayed=replay(durations),
        usual=usual,
        none_slow=replay([each * by for each, by in zip(durations, scale, strict=True)]),
        none_long=replay([np.minimum(each, usual) for each in durations]),
        without=dict(sorted(without.items(), key=lambda each: each[1])),
    )


def _series(recording: Recording) -> dict[int, Floats]:
    """Return what to replay: the durations of the N + b workers that computed most.

    As in `Slowdowns.recorded`, the first step of each run is left out: workers start in it.
    """
    of = recording.computed_for
    starting = (of >= 0) & np.isnan(recording.starts[of])
    computed = np.flatnonzero(recording.computed & ~starting)
    counts = np.bincount(recording.worker_of[computed], minlength=len(recording.workers))
    most = np.argsort(-counts, kind="stable")[: recording.settings.workers]
    series = {}
    for index in sorted(most[counts[most] > 0].tolist()):
        rows = computed[recording.worker_of[computed] == index]
        rows = rows[np.argsort(recording.began[rows], kind="stable")]
        busy = np.maximum(recording.busy[rows], _SHORTEST_S)
        series[int(recording.workers[index])] = busy[_spread(len(busy))]
    return series


def _spread(count: int) -> Ints:
    """Return which of `count` gradients to replay: blocks from all over the training."""
    if count <= _UPDATES:
        return np.arange(count)
    first = np.linspace(0, count - _BLOCK, _UPDATES // _BLOCK).astype(np.int64)
    return np.asarray((first[:, None] + np.arange(_BLOCK)).reshape(-1))
