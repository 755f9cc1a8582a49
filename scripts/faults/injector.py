"""Injection of faults into the tasks of a training run, when their moments come."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Sequence

import psutil

from scripts.faults.course import Course
from scripts.faults.fault import Fault, Moment, Target

PERIOD_S = 0.2  # A slowed task runs for a part of each such time.


@dataclasses.dataclass
class Injection:
    """A fault that was injected.

    Attributes:
      fault: the fault.
      time: when it was injected.
      made: number of updates made by then.
      end: when it ended; None if it has no end, or has not ended yet.
    """

    fault: Fault
    time: float
    made: int
    end: float | None = None


class Injector:
    """Injects faults, each once, and ends those that have an end.

    A fault waits until its moment, until its task runs, and until training has made an update since
    it was last started. Seconds are those of `Course.trained_s`.

    Args:
      faults: the faults.
      find: returns the process of a task or a network, or None if it does not run.

    Attributes:
      injections: what was injected so far.
      waiting: faults that were not injected yet.
    """

    def __init__(
        self, faults: Sequence[Fault], find: Callable[[Target], psutil.Process | None]
    ) -> None:
        self.waiting = list(faults)
        self.injections: list[Injection] = []
        self._find = find
        self._active: list[tuple[Injection, psutil.Process]] = []
        self._stopping: set[int] = set()  # Injections that want their process stopped now.
        self._starts = 0  # Starts of training that a fault has ended.

    @property
    def is_slowing(self) -> bool:
        """Whether a task is being slowed, so that `step` must be called often."""
        return any(injection.fault.action == "slow" for injection, _ in self._active)

    def step(self, now: float, course: Course) -> list[Injection]:
        """Do what is due, and return what was injected.

        Args:
          now: the time, by the clock of `course`.
          course: course of training until now.
        """
        trains = course.trains and len(course.starts) > self._starts
        trained_s = course.trained_s(now if trains else None)
        for injection, process in [*self._active]:
            if self._is_over(injection, now, trained_s, course.made):
                self._end(injection, process, now)
            elif injection.fault.action == "slow":
                running = PERIOD_S / injection.fault.factor
                self._stop(injection, process, (now - injection.time) % PERIOD_S >= running)
        new = []
        for fault in [*self.waiting]:
            if not (trains and _has_come(fault.begin, trained_s, course.made)):
                continue
            task = self._find(fault.process)
            if task is not None:
                self.waiting.remove(fault)
                new.append(self._begin(fault, task, now, course))
                trains = len(course.starts) > self._starts
        self.injections += new
        return new

    def release(self, now: float) -> None:
        """End all faults that have not ended."""
        for injection, process in [*self._active]:
            self._end(injection, process, now)

    def _begin(self, fault: Fault, task: psutil.Process, now: float, course: Course) -> Injection:
        injection = Injection(fault, now, course.made)
        if fault.ends_process:
            _send(task, signal.SIGKILL if fault.action == "kill" else signal.SIGTERM)
            if fault.target.job != "worker":
                self._starts = len(course.starts)
        else:
            self._active.append((injection, task))
            self._stop(injection, task, fault.action in ("freeze", "cut"))
        return injection

    def _end(self, injection: Injection, process: psutil.Process, now: float) -> None:
        self._stop(injection, process, False)
        injection.end = now
        self._active.remove((injection, process))

    def _stop(self, injection: Injection, process: psutil.Process, stopped: bool) -> None:
        """Stop a process for a fault, or let it run unless another fault has stopped it."""
        if (id(injection) in self._stopping) == stopped:
            return
        (self._stopping.add if stopped else self._stopping.discard)(id(injection))
        if stopped or not any(
            id(other) in self._stopping and its == process for other, its in self._active
        ):
            _send(process, signal.SIGSTOP if stopped else signal.SIGCONT)

    def _is_over(self, injection: Injection, now: float, trained_s: float, made: int) -> bool:
        fault = injection.fault
        if fault.seconds is not None:
            return now >= injection.time + fault.seconds
        return fault.end is None or _has_come(fault.end, trained_s, made)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process, unless it has exited."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _has_come(moment: Moment, trained_s: float, made: int) -> bool:
    return (made if moment.of_steps else trained_s) >= moment.value
