"""Judgement of a training run with faults: what failed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.faults.course import Pause
from scripts.faults.fault import Fault
from scripts.faults.faulted_run import Outcome
from scripts.faults.injector import Injection

METRICS = ("accuracy", "loss")
VERDICTS = ("accepted", "late", "stale", "duplicate", "lost", "nonfinite")


@dataclasses.dataclass(frozen=True)
class Judge:
    """What training has to keep to.

    Args:
      max_pause_s: longest time between two updates; twice that if there was a validation in
        between, since the end of an epoch and the validation may each wait for a worker. The time
        for which the chief or a parameter server is frozen is added.
      max_restart_s: the same where training starts again from a checkpoint in between.
      shrinks: whether updates may be made of fewer than N gradients.
      min_speed: least updates per second, as a part of those without faults.
      tolerance: how much worse than without faults the final result may be: how much lower an
        accuracy, or how much higher a loss, as a part of it.
    """

    max_pause_s: float
    max_restart_s: float
    shrinks: bool = False
    min_speed: float = 0.0
    tolerance: float = math.inf

    def survived(self, injection: Injection, outcome: Outcome) -> bool:
        """Return whether training went on after a fault.

        It did if it came to its end, or made an update after the longest pause that is allowed.
        """
        if outcome.failure is None:
            return True
        fault, last_s = injection.fault, outcome.course.last_s
        allowed = self.max_restart_s if fault.may_cost_a_restart else self.max_pause_s
        return last_s is not None and last_s > injection.time + allowed + (fault.seconds or 0.0)

    def failures(self, outcome: Outcome, baseline: Outcome | None = None) -> list[str]:
        """Return what failed, a sentence each.

        Args:
          outcome: the run with faults.
          baseline: the same run without; None if there was none.
        """
        found = [outcome.failure] if outcome.failure else []
        found += [
            f"Training did not go on after '{each.fault}' (step {each.made})."
            for each in outcome.injections
            if not self.survived(each, outcome)
        ]
        found += [*_missed(outcome), *_restarts(outcome), *self._pauses(outcome)]
        return [*found, *self._accounts(outcome), *self._comparison(outcome, baseline)]

    def _pauses(self, outcome: Outcome) -> Iterator[str]:
        for pause in outcome.course.pauses():
            name, allowed = "--max_pause_s", self.max_pause_s
            if pause.validates:
                name, allowed = "twice --max_pause_s, with a validation", 2 * allowed
            if pause.restarts:
                name, allowed = "--max_restart_s", self.max_restart_s
            frozen = sum(_frozen_s(each, pause) for each in outcome.injections)
            if pause.seconds > allowed + frozen:
                cause = cause_of(pause.end, pause.begin, outcome)
                yield (
                    f"A pause of {pause.seconds:.1f} s after update {pause.made}, "
                    + (f"with '{cause.fault}', " if cause else "")
                    + f"is longer than the {allowed:g} s of {name}"
                    + (f" and {frozen:.1f} s of a freeze." if frozen else ".")
                )

    def _accounts(self, outcome: Outcome) -> Iterator[str]:
        if outcome.summary is None:
            return
        counts = outcome.summary["contributions"]
        if counts["computed"] != sum(counts[name] for name in VERDICTS):
            yield f"The accounts do not add up: {counts}."
        updates, accepted = outcome.summary["updates_of_this_run"], counts["accepted"]
        most = outcome.summary["replicas"] * updates
        least = updates if self.shrinks else most
        if not least <= accepted <= most:
            used = str(most) if least == most else f"{least} to {most}"
            yield f"{accepted} gradients were accepted, but updates used {used}."

    def _comparison(self, outcome: Outcome, baseline: Outcome | None) -> Iterator[str]:
        if outcome.summary is None or baseline is None or baseline.summary is None:
            return
        speeds = [run.course.updates_per_s for run in (outcome, baseline)]
        if speeds[0] < self.min_speed * speeds[1]:
            yield (
                f"Training made {speeds[0]:.2f} updates per second with faults and {speeds[1]:.2f} "
                f"without: less than the part {self.min_speed:g} of --min_speed."
            )
        name = metric(outcome.summary)
        ours, theirs = (
            float(run["validation"][name]) for run in (outcome.summary, baseline.summary)
        )
        worse = theirs - ours if name == "accuracy" else ours / theirs - 1.0
        if not worse <= self.tolerance:
            yield (
                f"The final {name} is {ours:.4g} with faults and {theirs:.4g} without: worse by "
                f"more than the {self.tolerance:g} of --tolerance."
            )


def metric(summary: Mapping[str, Any] | None) -> str:
    """Return the name of the result to compare: the first of METRICS that a model has."""
    known = METRICS if summary is None else summary["validation"]
    return next(name for name in METRICS if name in known)


def cause_of(end: float, begin: float, outcome: Outcome) -> Injection | None:
    """Return the fault to which a pause is put down: the first in it, or the last before it."""
    before = None
    for injection in outcome.injections:
        if injection.time > end:
            break
        if injection.time >= begin:
            return injection
        before = injection
    return before


def _frozen_s(injection: Injection, pause: Pause) -> float:
    """Return for how much of a pause the chief or a parameter server was frozen by a fault."""
    fault = injection.fault
    if fault.action != "freeze" or fault.target.job == "worker":
        return 0.0
    end = pause.end if injection.end is None else injection.end
    return max(0.0, min(end, pause.end) - max(injection.time, pause.begin))


def _missed(outcome: Outcome) -> Iterator[str]:
    missed: list[Fault] = list(outcome.missed)
    if missed and outcome.failure is None:
        yield (
            f"{len(missed)} of the faults were not injected, since training ended before; the "
            f"first is '{missed[0]}'. Raise --updates."
        )


def _restarts(outcome: Outcome) -> Iterator[str]:
    restarts = len(outcome.course.starts) - 1
    causes = sum(each.fault.may_cost_a_restart for each in outcome.injections)
    if restarts > causes:
        yield (
            f"Training started again {restarts} times, but only {causes} of the faults give a "
            "reason for that."
        )
