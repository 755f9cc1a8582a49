"""Injection of faults, into processes and by a clock that are made up."""

from __future__ import annotations

import signal

import psutil

from scripts.faults.course import Course
from scripts.faults.fault import Target
from scripts.faults.injector import PERIOD_S, Injector
from scripts.faults.scenario import parse


class FakeProcess:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


class Run:
    """A training run that makes an update each second, and its injector."""

    def __init__(self, *faults: str) -> None:
        self.now = 0.0
        self.course = Course()
        self.processes: dict[str, FakeProcess] = {
            name: FakeProcess(number)
            for number, name in enumerate(("worker 0", "ps 0", "chief", "network 0"))
        }
        self.injector = Injector([parse(text) for text in faults], self._find)
        self.injected: list[str] = []

    def _find(self, target: Target) -> FakeProcess | None:
        return self.processes.get(str(target))

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        new = self.injector.step(self.now, self.course)
        self.injected += [str(each.fault) for each in new]

    def start(self, after: int = 0) -> None:
        self.course.note({"time": self.now, "start": after})
        self.step()

    def update(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 1.0
            self.course.note({"time": self.now, "update": self.course.made + 1})
            self.step()

    def signals(self, name: str) -> list[int]:
        return self.processes[name].signals


def test_a_fault_comes_at_its_step_once() -> None:
    run = Run("kill worker 0 at step 2")
    run.start()
    run.update()
    assert run.injected == []
    run.update(3)
    assert run.signals("worker 0") == [signal.SIGKILL]
    (injection,) = run.injector.injections
    assert (injection.made, injection.time) == (2, 2.0)
    assert not run.injector.waiting


def test_seconds_count_from_the_first_update() -> None:
    run = Run("restart worker 0 at 2.5 s")
    run.step(10)
    run.start()
    run.step(10)
    run.update(3)
    assert run.injected == []
    run.step(0.6)
    assert run.signals("worker 0") == [signal.SIGTERM]


def test_a_fault_waits_for_its_task() -> None:
    run = Run("kill worker 0 at step 1")
    process = run.processes.pop("worker 0")
    run.start()
    run.update(3)
    assert run.injected == []
    run.processes["worker 0"] = process
    run.step()
    assert process.signals == [signal.SIGKILL]


def test_faults_and_seconds_wait_while_training_starts_again() -> None:
    run = Run("kill chief at step 3", "kill worker 0 at step 3", "kill ps 0 at 4 s")
    run.start()
    run.update(3)
    assert run.injected == ["kill chief at step 3"]
    run.step(60)
    run.start(after=2)
    assert run.injected == ["kill chief at step 3"]
    run.update()
    assert run.injected[1:] == ["kill worker 0 at step 3"]
    run.update()
    assert run.injected[1:] == ["kill worker 0 at step 3"]  # 2 s, and 1 s.
    run.update()
    assert run.injected[2:] == ["kill ps 0 at 4 s"]


def test_a_freeze_ends_after_its_time_or_at_its_step() -> None:
    run = Run("freeze worker 0 for 1.5 s at step 1", "freeze ps 0 from step 1 to step 4")
    run.start()
    run.update(2)
    assert run.signals("worker 0") == run.signals("ps 0") == [signal.SIGSTOP]
    run.update()
    assert run.signals("worker 0") == [signal.SIGSTOP, signal.SIGCONT]
    run.update()
    assert run.signals("ps 0") == [signal.SIGSTOP, signal.SIGCONT]
    assert [each.end for each in run.injector.injections] == [3.0, 4.0]


def test_a_cut_stops_the_network_of_a_worker_and_not_the_worker() -> None:
    run = Run("cut worker 0 for 5 s at step 1", "freeze worker 0 for 2 s at step 2")
    run.start()
    run.update(10)
    assert run.signals("network 0") == run.signals("worker 0") == [signal.SIGSTOP, signal.SIGCONT]
    assert [each.end for each in run.injector.injections] == [6.0, 4.0]
    assert [each.fault.kind for each in run.injector.injections] == ["cut worker", "freeze worker"]


def test_a_slow_task_is_stopped_for_a_part_of_the_time() -> None:
    run = Run("slow worker 0 by 4 for 10 s at step 1")
    run.start()
    run.update()
    stopped = []
    for _ in range(400):
        run.step(PERIOD_S / 40)
        stopped.append(run.signals("worker 0")[-1:] == [signal.SIGSTOP])
    assert 0.7 < sum(stopped) / len(stopped) < 0.8
    run.step(10)
    assert run.signals("worker 0")[-1] == signal.SIGCONT
    assert not run.injector.is_slowing


def test_a_task_runs_again_when_its_last_fault_ends() -> None:
    run = Run("freeze worker 0 for 5 s at step 1", "freeze worker 0 for 1 s at step 2")
    run.start()
    run.update(4)
    assert signal.SIGCONT not in run.signals("worker 0")
    run.update(2)
    assert run.signals("worker 0")[-1] == signal.SIGCONT


def test_a_freeze_is_of_one_process_and_not_of_its_successor() -> None:
    run = Run("freeze worker 0 for 9 s at step 1", "freeze worker 0 for 1 s at step 2")
    run.start()
    run.update()
    first, run.processes["worker 0"] = run.processes["worker 0"], FakeProcess(7)
    run.update(3)
    assert run.signals("worker 0") == [signal.SIGSTOP, signal.SIGCONT]
    assert first.signals == [signal.SIGSTOP]
    run.injector.release(run.now)
    assert first.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_a_process_that_has_exited_needs_no_signal() -> None:
    class Gone(FakeProcess):
        def send_signal(self, number: int) -> None:
            raise psutil.NoSuchProcess(self.pid)

    run = Run("freeze worker 0 for 1 s at step 1", "kill ps 0 at step 1")
    run.processes.update({name: Gone(7) for name in ("worker 0", "ps 0")})
    run.start()
    run.update(3)
    assert [each.fault.action for each in run.injector.injections] == ["freeze", "kill"]
    assert run.injector.injections[0].end == 2.0
