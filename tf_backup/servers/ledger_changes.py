"""Changes of the gate's ledger, and what they say about gradients and updates.

A change is a vector of int64 about one place: a head of `HEAD` numbers, and the place's column of
the packed ledger before and after a call of the gate. The head holds the time of the call, its
kind, the place, and three numbers that depend on the kind: the rest of an `Offer`, or `Times`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tf_backup.rules import protocol
from tf_backup.rules.protocol import Ledger

Array = np.ndarray[Any, Any]

# Kinds. OFFER: of a gradient. MADE: of an update, one for each place. OTHER: its numbers are 0.
OFFER, MADE, OTHER = range(3)
HEAD, COLUMN = 6, len(Ledger._fields)
SIZE = HEAD + 2 * COLUMN

UPDATE = 100  # Code of an update's row. Other rows begin with a verdict of `protocol`, or LOST.
LOST = 5  # What a worker that died was computing.

# Verdicts, in the order of their counts in the ledger.
_ENDED = {
    "late": protocol.LATE,
    "stale": protocol.STALE,
    "duplicate": protocol.DUPLICATE,
    "lost": LOST,
    "nonfinite": protocol.NONFINITE,
}
_UNKNOWN = -1


class Offer(NamedTuple):
    """What is known of a gradient that a worker offers; int64."""

    place: Any
    run: Any
    step: Any
    compute: Any  # Microseconds that the worker took, by its own clock.


class Times(NamedTuple):
    """When the chief's loop was where in an update; microseconds, -1 if unknown."""

    began: Any
    taken: Any  # When its gradients were taken out of the accumulator.
    applied: Any  # When the optimizer had run.


class ContributionRow(NamedTuple):
    """The row of a contribution; -1 is unknown."""

    verdict: Any
    ended: Any
    began: Any
    step: Any
    place: Any
    worker: Any
    due: Any  # The step whose update is to use it.
    compute: Any
    run: Any


class UpdateRow(NamedTuple):
    """The row of an update; -1 is unknown. Two zeros follow."""

    code: Any  # UPDATE
    released: Any
    began: Any
    step: Any
    taken: Any
    applied: Any
    run: Any


FIELDS = len(ContributionRow._fields)  # Numbers in a row.
_AT = ContributionRow(*range(FIELDS))  # Index of each number.


class LedgerChanges:
    """Turns changes into rows, each a `ContributionRow` or `UpdateRow` of int64.

    Times are in microseconds, by the server's clock.

    Args:
      places: number of places.

    Attributes:
      unknown: number of contributions left out, since the change that began them is missing.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        # Of the contribution that began last at each place: its entry (None once it is delivered),
        # its number among those of the place, and when it began.
        self._begun: list[tuple[int | None, int, int]] = [(None, _UNKNOWN, _UNKNOWN)] * places
        self.unknown = 0

    def rows(self, changes: Array) -> Array:
        """Return the rows ([n, FIELDS]) of what happened in `changes` ([m, SIZE]), in order."""
        time, kind, place, *numbers = changes[:, :HEAD].T
        offer, times = Offer(place, *numbers), Times(*numbers)  # `kind` says which, if any.
        old = Ledger(*changes[:, HEAD : HEAD + COLUMN].T)
        new = Ledger(*changes[:, HEAD + COLUMN :].T)
        delivered = new.queued > old.queued
        verdict = np.zeros_like(time)
        for name, code in _ENDED.items():  # Each call has one verdict per place at most.
            verdict += (getattr(new, name) > getattr(old, name)) * code
        offered = kind == OFFER
        # Delivered contributions that are given up at the end of a run are stale.
        given_up = ~offered & (verdict == protocol.STALE)
        ended = sum(getattr(new, name) - getattr(old, name) for name in _ENDED)
        step = np.where(given_up, old.due - old.staleness, _UNKNOWN)
        step = np.where(offered, offer.step, step)
        due = np.where(delivered, new.due, _UNKNOWN)
        compute = np.where(offered, offer.compute, _UNKNOWN)
        run = np.where(offered, offer.run, old.run)
        row = ContributionRow(verdict, time, time, step, place, old.holder, due, compute, run)
        rows = np.stack(row, axis=1)
        begins = (new.begun > old.begun) & (verdict != protocol.DUPLICATE)
        # When others than a place's latest began is only in the rows of their delivery.
        several = (old.queued > 1) | (old.status != protocol.DELIVERED)
        made = (kind == MADE) & (place == self._places - 1)
        found: list[Any] = []
        for index in np.flatnonzero(delivered | (ended > 0) | begins | made):
            if given_up[index] and several[index]:
                rows[index, _AT.began] = _UNKNOWN
                found += [rows[index]] * int(ended[index])
            elif delivered[index] or ended[index]:
                entry = None if given_up[index] else old.entry[index]
                found += self._completed(rows[index], entry, old.begun[index])
            if begins[index]:
                self._begun[place[index]] = new.entry[index], new.begun[index], time[index]
            if made[index]:
                began, taken, applied = (each[index] for each in times)
                update = UpdateRow(
                    UPDATE, time[index], began, old.step[index], taken, applied, old.run[index]
                )
                found.append([*update, 0, 0])
        return np.array(found, np.int64).reshape([-1, FIELDS])

    def _completed(self, row: Array, entry: int | None, number: int) -> list[Array]:
        """Add to a contribution's row when it began; leave the row out if that is not known.

        Args:
          row: the row, which is changed.
          entry: entry of the worker that was computing it; None if it had been delivered before.
          number: number of the place's contributions so far, this one included.
        """
        place = row[_AT.place]
        known, last, began = self._begun[place]
        if row[_AT.verdict] == protocol.DUPLICATE:  # Counted as begun when it is refused.
            row[_AT.began] = _UNKNOWN
            if number == last:
                self._begun[place] = known, last + 1, began
        elif (entry, number) == (known, last):
            row[_AT.began] = began
            self._begun[place] = None, last, began
        else:
            self.unknown += 1
            return []
        return [row]
