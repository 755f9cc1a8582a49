"""Parts of the time of an update: their medians, from the timeline of a training."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_backup.timeline.schema import ACCEPTED, LOST, UNKNOWN, Rows, Timeline


@dataclasses.dataclass(frozen=True)
class UpdateTimes:
    """Medians of the parts of an update, in milliseconds; None for what is not known.

    `token`, `compute`, `put` and `gate` are of a gradient; the others follow one another in the
    update that uses it.

    Attributes:
      token_ms: from the release of the parameters until a worker, which may still be busy with a
        late gradient, is told to compute.
      compute_ms: the gradient, by the worker's clock. Includes reading the batch, and waits for
        parameters that are still on their way.
      put_ms: what passes besides from the token to the arrival at the gate: the token's way to
        the worker, and the gradient's to the server.
      gate_ms: from the arrival of a gradient that is used until that of the N-th.
      start_ms: from the arrival of the N-th until the loop on the server begins. This, `take_ms`
        and `update_ms` are None with several parameter servers.
      take_ms: taking the N gradients.
      update_ms: their mean, and the optimizer.
      publish_ms: publishing the new parameters, and telling the workers. With several servers
        from the arrival of the N-th, so that it includes start, take and update.
    """

    token_ms: float | None = None
    compute_ms: float | None = None
    put_ms: float | None = None
    gate_ms: float | None = None
    start_ms: float | None = None
    take_ms: float | None = None
    update_ms: float | None = None
    publish_ms: float | None = None


NOT_KNOWN = UpdateTimes()


def of(timeline: Timeline, begin_us: int) -> UpdateTimes:
    """Return the medians over the updates and gradients of a timeline that began late enough.

    Args:
      timeline: of a training.
      begin_us: start of what counts, in microseconds since 1970.
    """
    updates = timeline.updates
    started = np.where(updates["started"] == UNKNOWN, updates["released"], updates["started"])
    updates = updates[started >= begin_us]
    gradients = timeline.contributions
    gradients = gradients[(gradients["began"] >= begin_us) & (gradients["verdict"] != LOST)]
    used = gradients[gradients["verdict"] == ACCEPTED]
    last = _last_arrivals(used, updates)
    known = (last > 0) & (updates["started"] != UNKNOWN)
    published_from = np.where(updates["applied"] == UNKNOWN, last, updates["applied"])
    return UpdateTimes(
        token_ms=_median(_waits(gradients, updates)),
        compute_ms=_median(gradients["compute"]),
        put_ms=_median(gradients["arrived"] - gradients["began"] - gradients["compute"]),
        gate_ms=_median(_until(last, used, updates)),
        start_ms=_median((updates["started"] - last)[known]),
        take_ms=_between(updates, "started", "taken"),
        update_ms=_between(updates, "taken", "applied"),
        publish_ms=_median((updates["released"] - published_from)[published_from > 0]),
    )


def _last_arrivals(used: Rows, updates: Rows) -> Rows:
    """Return when the last gradient of each update arrived; 0 if none is known."""
    last = np.zeros(len(updates), np.int64)
    index, found = _index(updates["step"], used["update"])
    np.maximum.at(last, index[found], used["arrived"][found])
    return last


def _until(last: Rows, used: Rows, updates: Rows) -> Rows:
    """Return how long each used gradient waited for the last of its update."""
    index, found = _index(updates["step"], used["update"])
    waits: Rows = last[index[found]] - used["arrived"][found]
    return waits


def _waits(gradients: Rows, updates: Rows) -> Rows:
    """Return how long after the release of its parameters each gradient was begun."""
    index, found = _index(updates["step"], gradients["step"] - 1)
    waits: Rows = gradients["began"][found] - updates["released"][index[found]]
    return waits


def _index(steps: Rows, wanted: Rows) -> tuple[Rows, Rows]:
    """Return the index of each wanted step in increasing steps, and whether it is there."""
    index = np.searchsorted(steps, wanted)
    found = np.isin(wanted, steps)
    return np.where(found, index, 0), found


def _between(updates: Rows, first: str, second: str) -> float | None:
    known = (updates[first] != UNKNOWN) & (updates[second] != UNKNOWN)
    return _median((updates[second] - updates[first])[known])


def _median(values_us: Rows) -> float | None:
    return float(np.median(values_us)) / 1e3 if len(values_us) else None
