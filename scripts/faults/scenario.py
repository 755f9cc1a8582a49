"""Scenarios of faults: how a fault is written, and which faults fit a training run.

The grammar:

    fault  = "kill" task "at" moment
           | "restart" task "at" moment
           | "freeze" task span
           | "slow" task "by" FACTOR span
           | "cut" "worker" INDEX span
    span   = "for" SECONDS "s" "at" moment | "from" moment "to" moment
    task   = "worker" INDEX | "ps" INDEX | "chief"
    moment = "step" UPDATES | SECONDS "s"
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NoReturn

from scripts.faults.fault import ACTIONS, JOBS, Fault, Moment, Target

_EXAMPLES = {
    "kill": "kill worker 1 at step 50",
    "restart": "restart chief at step 100",
    "freeze": "freeze worker 0 for 5 s at 10 s",
    "slow": "slow worker 2 by 4 from step 20 to step 60",
    "cut": "cut worker 1 for 10 s at 5 s",
}


def parse(text: str) -> Fault:
    """Return the fault that a text describes.

    Raises:
      ValueError: if the text does not follow the grammar; says the text, the rule and an example.
    """
    words = _Words(text)
    action = words.take(*ACTIONS)
    job = words.take(*(["worker"] if action == "cut" else JOBS))
    target = Target(job, int(words.number("the index", whole=True)) if job != "chief" else 0)
    factor, seconds, end = 1.0, None, None
    if action == "slow":
        words.take("by")
        factor = words.number("the factor", above=1.0)
    if action in ("kill", "restart"):
        words.take("at")
        begin = words.moment()
    elif words.take("for", "from") == "for":
        seconds = words.number("the time", above=0.0)
        words.take("s")
        words.take("at")
        begin = words.moment()
    else:
        begin = words.moment()
        words.take("to")
        end = words.moment()
        if end.of_steps != begin.of_steps or end.value <= begin.value:
            words.fail(f"{end} must be later than {begin}, and both steps or both seconds")
    words.take("")
    return Fault(action, target, begin, seconds, end, factor)


class _Words:
    """Words of a text, taken one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = re.findall(r"[-+]?\d+(?:\.\d+)?|[a-z]+|\S", text.lower())
        self._before = ""

    def take(self, *expected: str) -> str:
        """Return the next word, which must be one of those expected; "" is the end."""
        word = self._next()
        if word not in expected:
            known = " or ".join(repr(each) if each else "the end" for each in expected)
            self._unexpected(word, known)
        self._before = word
        return word

    def number(self, name: str, above: float | None = None, whole: bool = False) -> float:
        """Return the next word as a number of at least 0, or above a bound."""
        word = self._next()
        try:
            value = float(word)
        except ValueError:
            self._unexpected(word, "a number")
        if value < 0 or (above is not None and value <= above):
            rule = "at least 0" if above is None else f"above {above:g}"
            self.fail(f"{name} is {word}; it must be {rule}")
        if whole and not value.is_integer():
            self.fail(f"{name} is {word}; it must be a whole number")
        self._before = word
        return value

    def moment(self) -> Moment:
        """Return the next words as a moment."""
        if self._left[:1] == ["step"]:
            self.take("step")
            return Moment(self.number("the step", above=0.0, whole=True), of_steps=True)
        if not self._left or not self._left[0].lstrip("+-")[:1].isdigit():
            self._unexpected(self._next(), "'step' or a number of seconds")
        value = self.number("the time")
        self.take("s")
        return Moment(value, of_steps=False)

    def fail(self, rule: str) -> NoReturn:
        """Raise the error about the whole text."""
        action = self._text.split()[0].lower() if self._text.split() else ""
        example = _EXAMPLES.get(action, _EXAMPLES["kill"])
        raise ValueError(f"--fault is {self._text!r}: {rule}. Write it as in {example!r}.")

    def _next(self) -> str:
        return self._left.pop(0) if self._left else ""

    def _unexpected(self, word: str, expected: str) -> NoReturn:
        at = f" after {self._before!r}" if self._before else " first"
        found = repr(word) if word else "the end"
        self.fail(f"{expected} must come{at}, not {found}")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the faults of a training run must fit.

    Args:
      workers: number of workers, N + b.
      ps: number of parameter servers.
      updates: number of updates of the training run.
      resumable: whether training can go on from a checkpoint.
    """

    workers: int
    ps: int
    updates: int
    resumable: bool

    def check(self, faults: Sequence[Fault]) -> None:
        """Check that all faults can be injected, and that training can go on after each.

        Raises:
          ValueError: for the first that does not fit; says the fault, the rule and the remedy.
        """
        for fault in faults:
            said = f"--fault is '{fault}'"
            known = {"worker": self.workers, "ps": self.ps, "chief": 1}[fault.target.job]
            if fault.target.index >= known:
                raise ValueError(
                    f"{said}, but the cluster has {fault.target.job} 0 to {known - 1}. Name one of "
                    "them, or make the cluster larger."
                )
            last = fault.end or fault.begin
            if last.of_steps and last.value >= self.updates:
                raise ValueError(
                    f"{said}, but training ends at step {self.updates}. Name an earlier step, or "
                    "raise --updates."
                )
            stands = fault.target.job != "worker" and fault.action == "freeze"
            if stands and fault.end is not None and fault.end.of_steps:
                raise ValueError(
                    f"{said}, but training stands while the {fault.target.job} is frozen, so that "
                    "step never comes. Say how long: 'freeze ... for 5 s at step 50'."
                )
            if fault.may_cost_a_restart and not self.resumable:
                raise ValueError(
                    f"{said}, after which training has to go on from a checkpoint. Give --log_dir "
                    "for its checkpoints."
                )
