"""How long each worker takes for a gradient in each step, read from a timeline."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tf_backup.advice.survival import Floats, complete
from tf_backup.timeline import schema
from tf_backup.timeline.schema import Rows, Timeline

WARM_UP = 5  # Rows left out at the start, while workers trace and caches fill.
_MOST_BEYOND = 0.001  # Share of gradients longer than anything seen that is worth a note.
_MOST_ABSENT = 0.2  # Share of the rows without a worker that is worth a note.


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What a timeline says of the workers and of the chief's loop.

    Attributes:
      seconds: [rows, N + b] how long a gradient takes that the worker at each place begins in each
        row. A row is an update, or several if a worker begins less than one gradient per update.
      update_s: median time from an update's start to its release, in seconds.
      seconds_per_update: mean time between two updates of a run, in seconds; NaN if there are none.
      updates: number of updates measured, after the warm-up.
      notes: what a reader should know about the data.
    """

    seconds: Floats
    update_s: float
    seconds_per_update: float
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
    updates = _sorted(timeline.updates, "started")
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
    stride = max(1, round(len(updates) * workers / len(rows)))
    starts = np.concatenate([[-(2**62)], updates["started"][:-1]])[::stride]
    skip = min(WARM_UP, len(starts) // 3)
    table, more = _table(rows, starts[skip:], workers, rng)
    updates = updates[skip * stride :]
    return Measured(
        seconds=table,
        update_s=max(0.0, float(np.median(updates["released"] - updates["started"])) / 1e6),
        seconds_per_update=_pace(updates),
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
        & (contributions["began"] != schema.UNKNOWN)
        & (contributions["arrived"] != schema.UNKNOWN)
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
    notes = []
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
    ends = np.append(starts[1:], 2**62)
    exists = following < count
    after = np.minimum(following, count - 1)
    before = np.maximum(following - 1, 0)
    begins = exists & (rows["began"][after] < ends)
    busy = exists & (following > 0) & (rows["arrived"][before] >= starts)
    busy &= rows["verdict"][before] != schema.LOST
    there = begins | busy
    column = np.where(there, seconds[after], rng.choice(seconds, len(starts)))
    return column, min(float(np.mean(~there)), 1 - 1e-9)


def _pace(updates: Rows) -> float:
    """Return the mean time between two updates of the same run, in seconds."""
    follows = np.diff(updates["run"]) == 0
    gaps = np.diff(updates["released"])[follows]
    return float(gaps.mean()) / 1e6 if len(gaps) else float("nan")


def _places(chosen: Any) -> str:
    """Return the places of a mask as text; empty if there are none."""
    places = np.flatnonzero(chosen).tolist()
    return ("worker " if len(places) == 1 else "workers ") * bool(places) + ", ".join(
        map(str, places)
    )
