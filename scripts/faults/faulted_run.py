"""A training run with faults, watched to its end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from scripts.faults.course import Course
from scripts.faults.fault import Fault
from scripts.faults.fault_progress import FaultProgress
from scripts.faults.injector import Injection, Injector
from scripts.faults.training_process import TrainingProcess

_POLL_S = 0.02
_POLL_SLOWING_S = 0.005


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a training run with faults.

    Attributes:
      course: its starts and updates.
      injections: the faults that were injected.
      missed: the faults that were not.
      summary: what train.py wrote at its end; None if it did not get there.
      failure: why it did not end well, as a sentence; None if it did.
    """

    course: Course
    injections: Sequence[Injection]
    missed: Sequence[Fault]
    summary: dict[str, Any] | None
    failure: str | None


def run(
    training: TrainingProcess, faults: Sequence[Fault], patience_s: float, progress: FaultProgress
) -> Outcome:
    """Train to the end, with faults; start training again if a fault has ended the chief.

    Args:
      training: the training process, not started yet.
      faults: the faults.
      patience_s: how long to wait for an update, or for the end after the last one.
      progress: shows the progress.
    """
    course, injector = Course(), Injector(faults, training.find)
    failure: str | None = None
    chiefs_ended = 0
    begin = time.monotonic()
    training.start()
    try:
        while failure is None:
            status = training.status  # Before the log is read, so that this reads all of it.
            for record in training.records():
                course.note(record)
            now = time.monotonic()
            progress.show(course.made, len(injector.injections))
            if status == 0:
                break
            if status is None:
                for injection in injector.step(now, course):
                    progress.tell(f"step {injection.made}, {now - begin:.0f} s: {injection.fault}")
                if now - _last(begin, course, injector.injections) > patience_s:
                    failure = f"Training made no update for {patience_s:.0f} s."
            elif chiefs_ended < sum(map(_ends_chief, injector.injections)):
                chiefs_ended += 1
                training.start()
            else:
                failure = f"Training ended with status {status}; it wrote:\n{training.tail}"
            time.sleep(_POLL_SLOWING_S if injector.is_slowing else _POLL_S)
    finally:
        injector.release(time.monotonic())
        training.end()
    summary = training.summary if failure is None else None
    return Outcome(course, injector.injections, injector.waiting, summary, failure)


def _ends_chief(injection: Injection) -> bool:
    return injection.fault.ends_process and injection.fault.target.job == "chief"


def _last(begin: float, course: Course, injections: Sequence[Injection]) -> float:
    """Return when training last showed progress, or a fault last gave it a reason not to."""
    reasons = [each.time + (each.fault.seconds or 0.0) for each in injections[-5:]]
    return max([begin, course.last_s or begin, *(each.time for each in course.starts), *reasons])
