"""`recommend`: the N and b that would train fastest, from the timeline of a training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tf_backup.advice.advice import Advice, Split
from tf_backup.advice.measured import Measured, measure
from tf_backup.advice.replay import Replayed, order_statistics, replay
from tf_backup.advice.resampling import Blocks, fastest, interval
from tf_backup.advice.survival import Floats
from tf_backup.timeline.schema import Settings, Timeline

Updates = Callable[[int], float] | Mapping[int, float]

_FEW = 100  # Updates; fewer are worth a note.
_AS_GOOD = 1.01  # A split whose time is at most this factor from the best is about as good.
_AS_LIKELY = 0.1  # So is one that is the fastest in this share of the resamples.
_DEVIATION = 0.15  # Difference between replayed and measured time that is worth a note.


def recommend(
    source: Timeline | str | os.PathLike[str],
    *,
    updates: Updates | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Advice:
    """Return which N and b would train fastest on the cluster that a timeline is of.

    The number of workers stays as it is. For each N from 1 to the number of workers, the measured
    steps are replayed with that N, and the rest of the workers as backups. This gives the time per
    update. The time that training takes is this time times the number of updates that it needs.

    The first few updates are left out as warm-up. Lost gradients count as longer than the time
    after which they were given up. A timeline of asynchronous training will do, too: how long a
    gradient takes is measured in the same way.

    Args:
      source: a timeline, or the folder of logs that has it.
      updates: number of updates that training needs with N, as a function, or as a mapping from
        some N; those between are interpolated, those outside are not compared. Only ratios
        matter. By default, training needs the same number of samples with every N.
      level: confidence level of the interval for the gain.
      seed: seed of the resampling. The same arguments give the same advice.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument is out of range, or the timeline has too few updates.
      RecordsError: if the folder has no timeline.

    Example:
      ```python
      print(tf_backup.recommend("logs/"))
      ```

    Reference: Chen et al., Revisiting Distributed Synchronous SGD, section 3, figures 4 to 6.
    """
    if not 0 < level < 1:
        raise ValueError(
            f"level is {level}; it must be between 0 and 1, exclusive. Use 0.9 for an interval "
            "that holds the true gain nine times out of ten."
        )
    timeline, read_notes = _timeline(source)
    settings = timeline.settings
    needed = _needed(updates, settings.workers)
    rng = np.random.default_rng(seed)
    measured = measure(timeline, rng)
    replayed = replay(measured.seconds, measured.update_s)
    blocks = Blocks.of(replayed.seconds, _run_times(settings, measured, replayed))
    times = blocks.mean()  # [splits]
    resampled = blocks.resample(rng) * needed  # [resamples, splits]
    best = int(fastest(times * needed))
    wins = np.bincount(fastest(resampled), minlength=settings.workers) / len(resampled)
    splits = _splits(settings, measured, times, replayed.begun, needed, wins)
    gain, gain_interval, lost = None, None, None
    fixed, own = measured.sizes.fixed, min(measured.sizes.usual, settings.workers) - 1
    if settings.max_staleness == 0 and fixed and not math.isnan(needed[own]):
        ratio = float(times[own] * needed[own] / (times[best] * needed[best]))
        gain, lost = ratio - 1, 100 * (1 - 1 / ratio)
        gain_interval = interval(resampled[:, own] / resampled[:, best] - 1, level)
    return Advice(
        replicas=splits[best].replicas,
        backups=splits[best].backups,
        splits=splits,
        confidence=splits[best].confidence,
        gain=gain,
        gain_interval=gain_interval,
        level=level,
        lost_by_choice=lost,
        run=(splits[own].replicas, splits[own].backups) if fixed else None,
        updates=measured.updates,
        update_s=measured.update_s,
        measured_s=measured.seconds_per_update,
        notes=(*read_notes, *_notes(settings, measured, splits, best)),
    )


def _timeline(source: Timeline | str | os.PathLike[str]) -> tuple[Timeline, tuple[str, ...]]:
    """Return a timeline, and if it was read from a folder, what the reader noted."""
    if isinstance(source, Timeline):
        return source, ()
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"source must be a Timeline or the path of a folder of logs, not {source!r} "
            f"({type(source).__name__})."
        )
    from tf_backup.timeline import parquet

    timeline = parquet.read(source)
    return timeline, timeline.notes


def _run_times(settings: Settings, measured: Measured, replayed: Replayed) -> Floats:
    """Return [blocks, length] the time of each step with the run's own N, up to a factor."""
    if settings.max_staleness == 0:
        own = measured.replicas[replayed.rows][:, :, None] - 1
        times: Floats = np.take_along_axis(replayed.seconds, own, axis=-1)[:, :, 0]
        return times
    # In asynchronous training, nobody waits for others, and the workers' rates add up.
    rates: Floats = (1 / measured.seconds[replayed.rows]).sum(axis=-1)
    return 1 / rates


def _needed(updates: Updates | None, workers: int) -> Floats:
    """Return [splits] the number of updates that training needs with each N, up to a factor."""
    numbers = np.arange(1, workers + 1)
    if updates is None:
        return 1.0 / numbers
    if isinstance(updates, Mapping):
        known = sorted(updates)
        values = [_positive(n, updates[n]) for n in known]
        if not known or not any(known[0] <= n <= known[-1] for n in numbers):
            raise ValueError(
                f"updates has the numbers of updates for N in {known}, none of which can be had "
                f"with {workers} worker(s). Give it for some N from 1 to {workers}."
            )
        inside = np.interp(numbers, known, values, left=np.nan, right=np.nan)
        return np.asarray(inside, np.float64)
    if not callable(updates):
        raise TypeError(
            f"updates must be a function of N, a mapping from N, or None, not {updates!r} "
            f"({type(updates).__name__})."
        )
    return np.array([_positive(n, updates(n)) for n in numbers.tolist()])


def _positive(replicas: int, value: Any) -> float:
    """Return the number of updates that training needs with N = `replicas`."""
    if not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise ValueError(
            f"updates gives {value!r} for N = {replicas}; it must be the number of updates that "
            "training needs with that N, above 0 and finite."
        )
    return float(value)


def _splits(
    settings: Settings,
    measured: Measured,
    times: Floats,
    begun: Floats,
    needed: Floats,
    wins: Floats,
) -> tuple[Split, ...]:
    fresh = order_statistics(measured.seconds) + measured.update_s
    relative = times * needed / np.nanmin(times * needed)
    batch = settings.batch_size
    return tuple(
        Split(
            replicas=n,
            backups=settings.workers - n,
            seconds_per_update=float(times[n - 1]),
            order_statistic_s=float(fresh[n - 1]),
            gradients_per_s=n / float(times[n - 1]),
            samples_per_s=None if batch is None else n * batch / float(times[n - 1]),
            wasted=max(0.0, 1 - n / float(begun[n - 1])),
            time_to_converge=float(relative[n - 1]),
            confidence=float(wins[n - 1]),
        )
        for n in range(1, settings.workers + 1)
    )


def _notes(
    settings: Settings, measured: Measured, splits: tuple[Split, ...], best: int
) -> list[str]:
    notes = list(measured.notes)
    if measured.updates < _FEW:
        notes.append(
            f"Only {measured.updates} updates were measured: rare stragglers may be missing, and "
            "the interval may be too narrow."
        )
    as_good = [
        str(split.replicas)
        for split in splits
        if split is not splits[best]
        and (split.time_to_converge < _AS_GOOD or split.confidence >= _AS_LIKELY)
    ]
    if as_good:
        notes.append(f"About as good as N = {splits[best].replicas}: N = {', '.join(as_good)}.")
    unknown = sum(math.isnan(split.time_to_converge) for split in splits)
    if unknown:
        notes.append(f"{unknown} split(s) are not compared, since `updates` does not cover them.")
    if settings.max_staleness != 0:
        notes.append(
            "Training was asynchronous. The advice is for synchronous training on the same "
            "workers, and the update is taken to last as long."
        )
        return notes
    if not measured.sizes.fixed:
        rate = measured.sizes.mean / measured.seconds_per_update
        notes.append(
            f"N changed during the run ({measured.sizes} gradients per update), so it is none of "
            f"these splits. It used {rate:.4g} gradients per second as measured, and "
            f"N = {splits[best].replicas} would use {splits[best].gradients_per_s:.4g} by replay."
        )
        return notes
    own = splits[min(measured.sizes.usual, settings.workers) - 1].seconds_per_update
    if abs(own / measured.seconds_per_update - 1) > _DEVIATION:
        notes.append(
            f"The replay of the run's own N and b gives {own:.4g} s per update, but "
            f"{measured.seconds_per_update:.4g} s were measured: something else takes time "
            "between updates, such as callbacks, or workers were absent."
        )
    return notes
