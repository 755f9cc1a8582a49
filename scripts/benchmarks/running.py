"""Running systems, and measurements of them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence

import psutil

from scripts.benchmarks import counters
from scripts.benchmarks.processes import Task, TaskFailed
from scripts.benchmarks.spec import Spec
from scripts.benchmarks.update_times import NOT_KNOWN, UpdateTimes

_START_S = 300.0  # Importing TensorFlow in several processes takes minutes on a busy machine.


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Counts of one turn of a system.

    Attributes:
      updates: number of updates.
      seconds: time that they took.
      wire_bytes: bytes on the loopback interface.
      coordinator_bytes: bytes of the chief's TCP connections; None without a chief.
      cpu_s: CPU time of all processes of a role, by role, in seconds.
      other_cpu_s: CPU time of all other processes on the machine, in seconds.
      peak_mib: peak memory of the largest process of a role since its start, by role.
      times: where the time of an update goes, if the system records that.
    """

    updates: int
    seconds: float
    wire_bytes: int
    coordinator_bytes: int | None
    cpu_s: dict[str, float]
    other_cpu_s: float
    peak_mib: dict[str, int]
    times: UpdateTimes = NOT_KNOWN

    @property
    def other_cores(self) -> float:
        """Number of cores that all other processes used."""
        return self.other_cpu_s / self.seconds

    @property
    def updates_per_s(self) -> float:
        """Updates per second."""
        return self.updates / self.seconds


class RunningSystem:
    """Processes that train together.

    Args:
      specs: specifications of the processes, beginning with those that measure.

    Raises:
      TaskFailed: if a process does not become ready.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._tasks: list[Task] = []
        self._pids: dict[str, list[int]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark_", ignore_cleanup_errors=True)
        try:
            for spec in specs:
                self._tasks.append(Task(spec, self._folder.name))
            for task in self._tasks:
                ready = task.receive(_START_S)
                for role, pids in {task.spec.job: [task.pid], **ready["children"]}.items():
                    self._pids.setdefault(role, []).extend(pids)
        except BaseException:
            self.end()
            raise

    def measure(self, steps: int, timeout_s: float) -> Measurement:
        """Make updates.

        Args:
          steps: number of updates; a system without a common step may make a few more.
          timeout_s: time to wait for them.

        Raises:
          TaskFailed: if a process fails or takes too long.
        """
        try:
            return self._measure(steps, timeout_s)
        except (psutil.NoSuchProcess, OSError) as error:
            raise TaskFailed(f"a process ended: {error}") from error

    def _measure(self, steps: int, timeout_s: float) -> Measurement:
        first, *others = (task for task in self._tasks if task.spec.program != "plain_server")
        machine_s, cpu_s = counters.machine_cpu_seconds(), self._cpu_s()
        wire = counters.loopback_bytes()
        for task in (first, *others):
            task.send(measure=steps)
        reply = first.receive(timeout_s)
        wire = counters.loopback_bytes() - wire
        cpu_s = {role: seconds - cpu_s[role] for role, seconds in self._cpu_s().items()}
        machine_s = counters.machine_cpu_seconds() - machine_s
        for task in others:
            task.send(stop=True)
        for task in others:
            task.receive(timeout_s)
        return Measurement(
            updates=reply["updates"],
            seconds=reply["seconds"],
            wire_bytes=wire,
            coordinator_bytes=reply["bytes"] if first.spec.job == "chief" else None,
            cpu_s=cpu_s,
            other_cpu_s=max(0.0, machine_s - sum(cpu_s.values())),
            peak_mib={
                role: max(counters.peak_mib(pid) for pid in pids)
                for role, pids in self._pids.items()
            },
            times=UpdateTimes(**reply["times"]),
        )

    def let_end(self) -> None:
        """Ask all processes to end, without waiting for them."""
        for task in self._tasks:
            task.let_end()

    def end(self) -> None:
        """End all processes, and delete their temporary files."""
        self.let_end()
        for task in self._tasks:
            task.end()
        self._folder.cleanup()

    def _cpu_s(self) -> dict[str, float]:
        return {
            role: sum(counters.cpu_seconds(pid) for pid in pids)
            for role, pids in self._pids.items()
        }
