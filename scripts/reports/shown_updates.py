"""Stretches of a few updates to show from close by: a usual one, and the slowest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scripts.reports.recording import Recording

_UPDATES = 6  # In the usual stretch.


class Window(NamedTuple):
    """A stretch of updates: their first and last index, and its time in seconds."""

    first: int
    last: int
    begin: float
    end: float


def usual(recording: Recording) -> Window:
    """Return updates in a row that took about as long as most others do."""
    took = recording.released - recording.starts
    length = _UPDATES
    while length > 1:
        total = np.convolve(took, np.ones(length), mode="valid")  # NaN across runs.
        if np.isfinite(total).any():
            away = np.abs(total - np.nanmedian(total))
            return _window(recording, int(np.nanargmin(away)), length)
        length -= 1
    return _window(recording, 0, 1)


def slowest(recording: Recording) -> Window | None:
    """Return the slowest update with its neighbours; None if it is among the usual ones."""
    took = recording.released - recording.starts
    if not np.isfinite(took).any():
        return None
    at = int(np.nanargmax(took))
    window, shown = _around(recording, at), usual(recording)
    return None if shown.first <= at <= shown.last else window


def _around(recording: Recording, at: int) -> Window:
    follows = np.isfinite(recording.starts)
    first = at - 1 if at and follows[at - 1] else at
    last = at + 1 if at + 1 < len(follows) and follows[at + 1] else at
    return _window(recording, first, last - first + 1)


def _window(recording: Recording, first: int, length: int) -> Window:
    last = first + length - 1
    begin = recording.starts[first]
    if not np.isfinite(begin):
        number = recording.updates["run"][first]
        begin = next(run.begin for run in recording.runs if run.number == number)
    return Window(first, last, float(begin), float(recording.released[last]))
