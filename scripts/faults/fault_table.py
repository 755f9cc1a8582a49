"""Counts of a training run with faults, by kind of fault."""

from __future__ import annotations

import dataclasses

from scripts.faults.faulted_run import Outcome
from scripts.faults.judgement import Judge, cause_of

ALL = "all"
NONE = "no fault"  # For pauses before the first one.


@dataclasses.dataclass
class Row:
    """What a kind of fault did to a training run.

    Attributes:
      fault: action and job, or ALL.
      injected: number of faults.
      survived: number of faults after which training went on.
      updates_lost: number of updates made again after a start from a checkpoint.
      longest_pause_s: longest time between two updates.
    """

    fault: str
    injected: int = 0
    survived: int = 0
    updates_lost: int = 0
    longest_pause_s: float = 0.0


def rows(outcome: Outcome, judge: Judge) -> list[Row]:
    """Return a row for each kind of fault, in the order of their first, and one for all."""
    found: dict[str, Row] = {}
    total = Row(ALL)

    def of(injection: object) -> list[Row]:
        kind = getattr(getattr(injection, "fault", None), "kind", NONE)
        return [found.setdefault(kind, Row(kind)), total]

    for injection in outcome.injections:
        for row in of(injection):
            row.injected += 1
            row.survived += judge.survived(injection, outcome)
    for pause in outcome.course.pauses():
        for row in of(cause_of(pause.end, pause.begin, outcome)):
            row.longest_pause_s = max(row.longest_pause_s, pause.seconds)
    for number, start in enumerate(outcome.course.starts):
        restarters = [
            each
            for each in outcome.injections
            if each.fault.may_cost_a_restart and each.time < start.time
        ]
        for row in of(restarters[-1] if restarters else None) if number else []:
            row.updates_lost += outcome.course.lost(number)
    return [*sorted(found.values(), key=lambda row: row.fault == NONE), total]
