"""Events, from the gate to the chief's loop: a step is complete, or the loop is to end.

An event travels as one tensor ([ROWS, N] int64). Its rows are the fields of `Event`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Codes of events that have no step; all their numbers are the code.
EXHAUSTED, STOPPED = -1, -2


class Event(NamedTuple):
    """Rows of an event, [N] each; all but the first end with -1 if there are fewer than N."""

    step: Any  # N times the step t >= 0 that is complete, or a code
    tickets: Any  # tickets of the N contributions
    places: Any  # places of their workers
    staleness: Any  # their staleness


ROWS = len(Event._fields)
ROW = Event(*range(ROWS))  # Index of each row, as in `event[ROW.tickets]`.
