"""Measurements in turns: in each round, every system is measured once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from scripts.benchmarks import architectures, counters, systems_compared
from scripts.benchmarks.environment import Environment
from scripts.benchmarks.processes import TaskFailed
from scripts.benchmarks.progress_lines import Progress
from scripts.benchmarks.rows import Row
from scripts.benchmarks.running import Measurement, RunningSystem
from scripts.benchmarks.stage import Stage

_FIRST_STEPS = 3
_TRIES = 5
_QUIET_CORES = 0.2  # Cores that other processes may use.
_PATIENCE_S = 600.0  # Tracing a large model takes minutes on a busy machine.


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything to measure.

    Attributes:
      models: names of architectures.
      ps: numbers of parameter servers.
      systems: names of systems.
      rounds: number of turns of each system in each setting.
      workers: number of workers.
      seconds: length of a turn.
      steps: number of updates in a turn; None to choose it by `seconds`.
      intra_op: number of threads for one operation.
      wait_s: time to wait for other processes to become quiet, for each measurement.
      profile: whether tf_backup records where the time of an update goes.
    """

    models: Sequence[str]
    ps: Sequence[int]
    systems: Sequence[str]
    rounds: int
    workers: int
    seconds: float
    steps: int | None
    intra_op: int
    wait_s: float
    profile: bool = False

    @property
    def measurements(self) -> int:
        """Number of measurements."""
        return len(self.models) * len(self.ps) * len(self.systems) * self.rounds


def run(plan: Plan, write: Callable[[Row], None], progress: Progress) -> list[str]:
    """Measure everything.

    Args:
      plan: what to measure.
      write: function that is called with each row.
      progress: progress to report to.

    Returns:
      A line for each system that failed; all others were measured nevertheless.
    """
    environment = Environment.here(plan.intra_op)
    failures: list[str] = []
    for model in plan.models:
        for ps in plan.ps:
            failures += _Setting(plan, model, ps, environment).run(write, progress)
    return failures


class _Setting:
    """All rounds of one model on one number of parameter servers."""

    def __init__(self, plan: Plan, model: str, ps: int, environment: Environment) -> None:
        self._plan, self._model, self._ps = plan, model, ps
        self._environment = environment
        self._rates: dict[str, float] = {}  # Updates per second, as last seen.
        self._stage = Stage(self._start, self._needed_gib)

    def run(self, write: Callable[[Row], None], progress: Progress) -> list[str]:
        """Measure all rounds; return a line for each system that failed."""
        failed: dict[str, str] = {}
        with self._stage:
            for turn in range(self._plan.rounds):
                for name in self._plan.systems:
                    if name in failed:
                        continue
                    try:
                        write(self._turn(name, turn, progress))
                    except TaskFailed as error:
                        self._stage.end(name)
                        failed[name] = f"{self._title(name, turn)}: {error}"
                        progress.skip(self._plan.rounds - turn - 1)
        return list(failed.values())

    def _turn(self, name: str, turn: int, progress: Progress) -> Row:
        with progress.of(self._title(name, turn)) as say:
            row = self._row(name, turn, self._measure(name))
            say(f"{row.gradients_per_s:.1f} gradients/s")
        return row

    def _title(self, name: str, turn: int) -> str:
        return f"{self._model}, {self._ps} ps, round {turn + 1}, {name}"

    def _measure(self, name: str) -> Measurement:
        """Measure one turn of a system, which is started first if necessary."""
        fresh = not self._stage.is_up(name)
        system = self._stage.running(name)
        if fresh:
            self._updates(name, system, _FIRST_STEPS)  # Traces, and connects.
            if self._plan.steps is None:
                self._updates(name, system, _FIRST_STEPS)  # Shows how fast it is.
        deadline = time.monotonic() + self._plan.wait_s
        while True:
            _await_quiet(deadline)
            measured = self._sized(name, system)
            if measured.other_cores <= _QUIET_CORES or time.monotonic() >= deadline:
                return measured

    def _sized(self, name: str, system: RunningSystem) -> Measurement:
        """Measure for about as long as planned."""
        for _ in range(_TRIES):
            steps = self._plan.steps or max(5, round(self._rates[name] * self._plan.seconds))
            measured = self._updates(name, system, steps)
            # If it was short, the system is faster than it had seemed: repeat the turn.
            if self._plan.steps or measured.seconds >= self._plan.seconds / 2:
                break
        return measured

    def _updates(self, name: str, system: RunningSystem, steps: int) -> Measurement:
        """Make updates, and remember their rate."""
        expected_s = steps / self._rates[name] if name in self._rates else 0.0
        measured = system.measure(steps, _PATIENCE_S + 10 * expected_s)
        self._rates[name] = measured.updates_per_s
        return measured

    def _start(self, name: str) -> RunningSystem:
        plan = self._plan
        slow_s = self._slow_s(systems_compared.ALL[name].slowdown)
        return RunningSystem(
            systems_compared.ALL[name].specs(
                self._model, plan.workers, self._ps, plan.intra_op, slow_s, plan.profile
            )
        )

    def _slow_s(self, slowdown: float) -> float:
        """Return the delay that makes a worker slower than the healthy ones, in seconds.

        Raises:
          TaskFailed: if healthy workers have not been measured.
        """
        if slowdown == 1.0:
            return 0.0
        if systems_compared.HEALTHY not in self._rates:
            raise TaskFailed(
                f"needs the speed of {systems_compared.HEALTHY}, which was not measured."
            )
        return (slowdown - 1.0) / self._rates[systems_compared.HEALTHY]

    def _needed_gib(self, name: str) -> float:
        processes = systems_compared.ALL[name].process_count(self._plan.workers, self._ps)
        return processes * architectures.ALL[self._model].process_gib

    def _row(self, name: str, turn: int, measured: Measurement) -> Row:
        system = systems_compared.ALL[name]
        return Row(
            model=self._model,
            ps=self._ps,
            system=name,
            round=turn,
            workers=system.workers(self._plan.workers),
            replicas=system.replicas(self._plan.workers),
            slowdown=system.slowdown,
            updates=measured.updates,
            seconds=measured.seconds,
            wire_bytes=measured.wire_bytes,
            coordinator_bytes=measured.coordinator_bytes,
            chief_cpu_s=measured.cpu_s.get("chief"),
            worker_cpu_s=measured.cpu_s["worker"],
            ps_cpu_s=measured.cpu_s.get("ps"),
            other_cpu_s=measured.other_cpu_s,
            chief_peak_mib=measured.peak_mib.get("chief"),
            worker_peak_mib=measured.peak_mib["worker"],
            ps_peak_mib=measured.peak_mib.get("ps"),
            environment=self._environment,
            times=measured.times,
        )


def _await_quiet(deadline: float) -> None:
    """Wait until the machine is nearly idle, while no system is measured."""
    while time.monotonic() < deadline:
        before = counters.machine_cpu_seconds()
        time.sleep(1.0)
        if counters.machine_cpu_seconds() - before <= _QUIET_CORES:
            return
