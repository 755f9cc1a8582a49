"""Changes of the gate's ledger, and what they say about gradients and updates.

A change is a vector of int64 about one place: a head of `HEAD` numbers, and the place's column of
the packed ledger before and after a call of the gate. The head holds the time of the call, its
kind, the place, and three numbers that depend on the kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_backup.rules import protocol
from tf_backup.rules.protocol import Ledger

Array = np.ndarray[Any, Any]

# Kinds. OFFER: run, step and compute time of the gradient. MADE, one for each place: when the
# update began, when its gradients were taken, and when the optimizer had run. OTHER: 0, 0, 0.
OFFER, MADE, OTHER = range(3)
HEAD, COLUMN = 6, len(Ledger._fields)
SIZE = HEAD + 2 * COLUMN

FIELDS = 9  # Numbers in a row.
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


class LedgerChanges:
    """Turns changes into rows, a vector of `FIELDS` int64 each.

    Times are in microseconds, by the server's clock. The row of a contribution: verdict, when it
    ended, when it began, step (-1 if unknown), place, worker, the step whose update is to use it,
    compute time, run. That of an update: UPDATE, when the workers were released, when the chief's
    loop began with it, step, when the gradients were taken, when the optimizer had run (-1 if
    unknown), run, 0, 0.

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
        step = np.where(offered, numbers[1], step)
        due = np.where(delivered, new.due, _UNKNOWN)
        compute = np.where(offered, numbers[2], _UNKNOWN)
        run = np.where(offered, numbers[0], old.run)
        rows = np.stack([verdict, time, time, step, place, old.holder, due, compute, run], axis=1)
        begins = (new.begun > old.begun) & (verdict != protocol.DUPLICATE)
        # When others than a place's latest began is only in the rows of their delivery.
        several = (old.queued > 1) | (old.status != protocol.DELIVERED)
        made = (kind == MADE) & (place == self._places - 1)
        found: list[Any] = []
        for index in np.flatnonzero(delivered | (ended > 0) | begins | made):
            if given_up[index] and several[index]:
                rows[index, 2] = _UNKNOWN
                found += [rows[index]] * int(ended[index])
            elif delivered[index] or ended[index]:
                entry = None if given_up[index] else old.entry[index]
                found += self._completed(rows[index], entry, old.begun[index])
            if begins[index]:
                self._begun[place[index]] = new.entry[index], new.begun[index], time[index]
            if made[index]:
                began, taken, applied = changes[index, 3:HEAD]
                at = [UPDATE, time[index], began, old.step[index], taken, applied, old.run[index]]
                found.append([*at, 0, 0])
        return np.array(found, np.int64).reshape([-1, FIELDS])

    def _completed(self, row: Array, entry: int | None, number: int) -> list[Array]:
        """Add to a contribution's row when it began; leave the row out if that is not known.

        Args:
          row: the row, which is changed.
          entry: entry of the worker that was computing it; None if it had been delivered before.
          number: number of the place's contributions so far, this one included.
        """
        place = row[4]
        known, last, began = self._begun[place]
        if row[0] == protocol.DUPLICATE:  # Counted as begun when it is refused, not before.
            row[2] = _UNKNOWN
            if number == last:
                self._begun[place] = known, last + 1, began
        elif (entry, number) == (known, last):
            row[2] = began
            self._begun[place] = None, last, began
        else:
            self.unknown += 1
            return []
        return [row]
