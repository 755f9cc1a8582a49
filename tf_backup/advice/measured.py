"""Time that each worker takes for a gradient in each step, read from a timeline."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from tf_backup.advice.survival import Floats, Ints, complete
from tf_backup.timeline import schema
from tf_backup.timeline.schema import Rows, Timeline
from tf_backup.timeline.update_sizes import UpdateSizes

WARM_UP = 5  # Rows left out at the start, while workers trace and caches fill.
_MOST_BEYOND = 0.001  # Share of gradients longer than anything seen that is worth a note.
_MOST_BEGIN = 2 / 3
_EVER = 2**62  # us; later than any time.
_MOST_ABSENT = 0.2  # Share of the rows without a worker that is worth a note.


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What a timeline says of the workers and of the chief's loop.

    Attributes:
      seconds: [rows, N + b] how long a gradient takes that the worker at each place begins in each
        row. A row is an update, or several if workers do not begin a gradient in most updates.
      update_s: median time from an update's N-th gradient to its release, in seconds.
      seconds_per_update: mean time between two updates of a run, in seconds; NaN if there are none.
      sizes: N, the number of gradients that each of these updates used.
      replicas: [rows] N of the row's first update.
      updates: number of updates measured, after the warm-up.
      notes: what a reader should know about the data.
    """

    seconds: Floats
    update_s: float
    seconds_per_update: float
    sizes: UpdateSizes
    replicas: Ints
    updates: int
    notes: tuple[str, ...]


def measure(timeline: Timeline, rng: np.random.Generator) -> Measured:
    """Read the durations from a timeline.

    A duration is the time from when a worker is told to compute a gradient until it is offered at
    the gate. So it includes reading the parameters and sending the gradient, but no waiting for
    other workers. It is measured in the same way for gradients that were used, late or stale.
    Gradients with NaN or Inf are left out, since they are not sent, and so are duplicates.

    Within a row, the durations are those of the same moment. So slowness that workers have in
    common stays in common, and a worker that is slow for a while is slow in successive rows. A
    worker that is still busy with an earlier gradient when a row begins has the duration of its
    next one. A worker that is absent has one of its own durations, at random.

    Raises:
      ValueError: if there are fewer than two updates, or no gradients.
    """
    order = np.argsort(timeline.updates["released"], kind="stable")
    updates = timeline.updates[order]
    if len(updates) < 2:
        raise ValueError(
            f"The timeline has {len(updates)} update(s); at least 2 are needed to know how long "
            "one takes. Train for longer, or give the timeline of a longer training."
        )
    workers = timeline.settings.workers
    rows, notes = _usable(timeline.contributions, workers)
    if not len(rows):
        raise ValueError(
            f"None of the timeline's {len(timeline.contributions)} gradient(s) has a duration, but "
            "advice needs at least one. Give the timeline of a training that made updates."
        )
    stride = _stride(rows, len(updates))
    starts = np.concatenate([[-_EVER], updates["released"][:-1]])[::stride]
    skip = min(WARM_UP, len(starts) // 3)
    table, more = _table(rows, starts[skip:], workers, rng)
    # Restarted trainings repeat steps.
    by_step = dataclasses.replace(timeline, updates=_sorted(timeline.updates, "step"))
    updates = updates[skip * stride :]
    sizes = UpdateSizes.of(timeline)[order[skip * stride :]]
    return Measured(
        seconds=table,
        update_s=max(0.0, float(np.median(by_step.update_seconds))),
        seconds_per_update=_mean_gap(updates),
        sizes=sizes,
        replicas=np.minimum(sizes.known[::stride], workers),
        updates=len(updates),
        notes=(*notes, *more),
    )


def _usable(contributions: Rows, workers: int) -> tuple[Rows, list[str]]:
    """Return the gradients that have a duration, by when they were begun."""
    verdict, place = contributions["verdict"], contributions["place"]
    rows = contributions[
        (verdict != schema.DUPLICATE)
        & (verdict != schema.NONFINITE)
        & (place >= 0)
        & (place < workers)
        & (contributions["began"] > 0)
        & (contributions["arrived"] > 0)
    ]
    positive = rows["arrived"] > rows["began"]
    notes = []
    if not positive.all():
        count = np.count_nonzero(~positive)
        notes.append(
            f"{count} gradient(s) arrived no later than they were begun, which a clock that was "
            "set back explains. They are left out."
        )
    return _sorted(rows[positive], "began"), notes


def _stride(rows: Rows, updates: int) -> int:
    """Return the number of updates in a row.

    One, if most workers begin a gradient in most updates. Otherwise enough for two gradients of
    each: with fewer, many rows in succession would have the same one, as if slowness lasted.
    """
    share = len(rows) / (updates * len(np.unique(rows["place"])))
    return 1 if share > _MOST_BEGIN else math.ceil(2 / share)


def _sorted(rows: Rows, field: str) -> Rows:
    """Return rows by one of their fields."""
    return rows[np.argsort(rows[field], kind="stable")]


def _table(
    rows: Rows, starts: Rows, workers: int, rng: np.random.Generator
) -> tuple[Floats, list[str]]:
    """Return [len(starts), workers] the durations, and notes."""
    lost = rows["verdict"] == schema.LOST
    seconds = (rows["arrived"] - rows["began"]) / 1e6
    seconds, beyond = complete(seconds, lost, rows["place"], rng)
    notes: list[str] = []
    if beyond > _MOST_BEYOND:
        notes.append(
            f"{beyond:.1%} of a worker's gradients were lost after longer than all others took. "
            "How long they would have taken is not known; the advice counts as little as possible."
        )
    table = np.empty([len(starts), workers])
    absent = np.zeros([workers])
    for place in range(workers):
        mine = rows["place"] == place
        table[:, place], absent[place] = _column(rows[mine], seconds[mine], seconds, starts, rng)
    if named := _places(absent == 1):
        notes.append(f"No gradients of {named} were measured: taken to be like the others.")
    if named := _places((absent > _MOST_ABSENT) & (absent < 1)):
        notes.append(
            f"Absent for more than {_MOST_ABSENT:.0%} of the updates: {named}. Taken to be there "
            "all the time, and as fast as when there."
        )
    return table, notes


def _column(
    rows: Rows, seconds: Floats, everyone: Floats, starts: Rows, rng: np.random.Generator
) -> tuple[Any, float]:
    """Return the durations of the worker at one place in each row, and how often it is absent."""
    count = len(rows)
    if not count:
        return rng.choice(everyone, len(starts)), 1.0
    following = np.searchsorted(rows["began"], starts)
    ends = np.append(starts[1:], _EVER)
    exists = following < count
    after = np.minimum(following, count - 1)
    before = np.maximum(following - 1, 0)
    begins = exists & (rows["began"][after] < ends)
    busy = exists & (following > 0) & (rows["arrived"][before] >= starts)
    busy &= rows["verdict"][before] != schema.LOST
    there = begins | busy
    column = np.where(there, seconds[after], rng.choice(seconds, len(starts)))
    return column, min(float(np.mean(~there)), 1 - 1e-9)


def _mean_gap(updates: Rows) -> float:
    """Return the mean time between two updates of the same run, in seconds."""
    follows = (np.diff(updates["run"]) == 0) & (np.diff(updates["step"]) == 1)
    gaps = np.diff(updates["released"])[follows]
    return float(gaps.mean()) / 1e6 if len(gaps) else float("nan")


def _places(chosen: Any) -> str:
    """Return the places of a mask as text; empty if there are none."""
    places = np.flatnonzero(chosen).tolist()
    if not places:
        return ""
    return f"worker{'s' * (len(places) > 1)} {', '.join(map(str, places))}"
