"""The benchmark's processes: start, commands, counters and end."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from scripts.benchmarks import counters, sockets, systems_compared
from scripts.benchmarks.processes import Task, TaskFailed
from scripts.benchmarks.progress_lines import Progress
from scripts.benchmarks.running import RunningSystem
from scripts.benchmarks.spec import Spec
from scripts.benchmarks.stage import Stage
from tests.cluster.processes import running


def specs(name: str, workers: int = 3, ps: int = 2) -> list[Spec]:
    return systems_compared.ALL[name].specs("dense", workers, ps, intra_op=1, slow_s=0.25)


# --- Systems


@pytest.mark.parametrize(
    ("name", "workers", "replicas", "backups", "asynchronous"),
    [
        ("one_device", 1, 1, 0, False),
        ("keras_fit", 1, 1, 0, False),
        ("tf_backup", 3, 2, 1, False),
        ("tf_backup_full_sync", 3, 3, 0, False),
        ("tf_backup_async", 3, 1, 2, True),
        ("stock_async", 3, 1, 2, True),
        ("sync_replicas", 3, 2, 1, False),
        ("all_reduce", 3, 3, 0, False),
        ("tf_backup_slow_worker", 4, 3, 1, False),
        ("tf_backup_unchecked", 3, 3, 0, False),
        ("tf_backup_unrecorded", 3, 3, 0, False),
        ("tf_backup_monitored", 3, 3, 0, False),
    ],
)
def test_a_system_has_n_and_b(
    name: str, workers: int, replicas: int, backups: int, asynchronous: bool
) -> None:
    assert {(s.workers, s.replicas, s.backups, s.asynchronous) for s in specs(name)} == {
        (workers, replicas, backups, asynchronous)
    }
    system = systems_compared.ALL[name]
    assert (system.workers(3), system.replicas(3)) == (workers, replicas)


@pytest.mark.parametrize(
    ("name", "started", "in_all"),
    [
        ("one_device", ["worker one_device"], 1),
        ("tf_backup", ["chief backup"], 6),
        (
            "stock_async",
            ["chief stock_async", *["worker plain_server"] * 3, *["ps plain_server"] * 2],
            6,
        ),
        ("sync_replicas", [*["worker sync_replicas"] * 3, *["ps plain_server"] * 2], 5),
        ("all_reduce", ["worker all_reduce"] * 3, 3),
    ],
)
def test_a_system_has_processes(name: str, started: list[str], in_all: int) -> None:
    found = specs(name)
    assert [f"{spec.job} {spec.program}" for spec in found] == started
    assert systems_compared.ALL[name].process_count(3, 2) == in_all
    addresses = [address for tasks in found[0].cluster.values() for address in tasks]
    assert len({*addresses}) == len(started)
    for spec in found:
        assert spec.cluster == found[0].cluster
        assert len(spec.cluster[spec.job]) > spec.index


def test_variants_differ_in_their_options_only() -> None:
    (healthy,) = specs("tf_backup_full_sync")
    for name, changes in (
        ("tf_backup_unchecked", {"options": {"on_nonfinite": "keep"}}),
        ("tf_backup_unrecorded", {"options": {"record_times": False}}),
        ("tf_backup_monitored", {"monitor": True}),
    ):
        (spec,) = specs(name)
        assert spec == dataclasses.replace(healthy, cluster=spec.cluster, **changes)
        assert name not in systems_compared.DEFAULT


def test_a_profile_is_recorded_by_our_systems_only() -> None:
    for name, system in systems_compared.ALL.items():
        for profile in (False, True):
            spec, *_ = system.specs("dense", 3, 2, intra_op=1, slow_s=0.0, profile=profile)
            ours = system.program == "backup"
            assert spec.monitor == (ours if profile else name == "tf_backup_monitored")


def test_a_spec_survives_the_command_line() -> None:
    (spec,) = specs("tf_backup_slow_worker")
    assert Spec.from_json(spec.to_json()) == spec
    assert spec.slow_s == 0.25


# --- Processes


@pytest.fixture
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Task]:
    """Process of the program that the parameter names."""
    (spec,) = specs("one_device")
    started = Task(dataclasses.replace(spec, program=request.param), str(tmp_path))
    yield started
    started.end()
    assert not running(started.pid)


@pytest.mark.parametrize("task", ["nothing"], indirect=True)
def test_an_error_is_one_line(task: Task) -> None:
    with pytest.raises(TaskFailed) as caught:
        task.receive(60.0)
    assert str(caught.value) == (
        f"worker 0 (nothing, process {task.pid}): ModuleNotFoundError: No module named "
        "'scripts.benchmarks.systems.nothing'"
    )


@pytest.mark.parametrize("task", ["one_device"], indirect=True)
def test_a_process_that_dies_is_missed(task: Task) -> None:
    os.kill(task.pid, signal.SIGKILL)
    with pytest.raises(TaskFailed, match="ended with status -9"):
        task.receive(60.0)
    with pytest.raises(TaskFailed, match="ended with status -9"):
        task.send(measure=1)


@pytest.mark.parametrize("task", ["one_device"], indirect=True)
def test_a_process_that_says_nothing_is_not_awaited_for_ever(task: Task) -> None:
    with pytest.raises(TaskFailed, match="did not answer within 0 s"):
        task.receive(0.01)


# --- The stage


class _System:
    def __init__(self) -> None:
        self.up = True
        self.told = False

    def let_end(self) -> None:
        self.told = True

    def end(self) -> None:
        self.up = False


def stage(gib: list[float]) -> tuple[Stage, dict[str, Any]]:
    """Return a stage on a machine with the given memory, one number for each look at it."""
    started: dict[str, Any] = {}

    def start(name: str) -> Any:
        started[name] = _System()
        return started[name]

    return Stage(start, lambda name: 3.0, lambda: gib.pop(0)), started


def test_systems_stay_up_while_there_is_room() -> None:
    found, started = stage([20.0, 20.0])
    with found:
        for name in ("a", "b", "a", "b"):
            assert found.running(name) is started[name]
        assert found.is_up("a") and found.is_up("b")
    for name in "ab":
        assert started[name].told and not started[name].up


def test_who_was_up_longest_without_a_turn_makes_room() -> None:
    found, started = stage([20.0, 6.9, 7.0])  # A system needs 3 GiB, and 4 are kept free.
    with found:
        for name in ("a", "b", "a", "c"):
            found.running(name)
        assert [name for name in "abc" if found.is_up(name)] == ["a", "c"]
        assert not started["b"].up


def test_a_system_that_failed_is_ended() -> None:
    found, started = stage([])
    with pytest.raises(TaskFailed), found:
        found.running("a")
        found.end("a")
        found.end("a")
        assert not started["a"].up
        raise TaskFailed


# --- Counting


def test_bytes_of_this_process_are_counted_and_no_socket_is_kept() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as connection,
    ):
        before = sockets.total_bytes(), counters.loopback_bytes()
        files = os.listdir("/proc/self/fd")
        client.sendall(b"x" * 10_000)
        received = 0
        while received < 10_000:
            received += len(connection.recv(10_000))
        # Both ends are in this process; the last bytes may not be acknowledged yet.
        assert 10_000 <= sockets.total_bytes() - before[0] <= 20_000
        assert counters.loopback_bytes() - before[1] >= 10_000
        assert os.listdir("/proc/self/fd") == files


def test_cpu_time_and_memory_are_those_of_the_process() -> None:
    pid = os.getpid()
    before = counters.cpu_seconds(pid)
    while counters.cpu_seconds(pid) < before + 0.05:
        pass
    assert counters.machine_cpu_seconds() > counters.cpu_seconds(pid)
    assert 10 < counters.peak_mib(pid) < 100_000


def test_a_process_that_has_ended_fails_the_measurement() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(psutil.NoSuchProcess):
        counters.cpu_seconds(ended.pid)
    with pytest.raises(OSError):
        counters.peak_mib(ended.pid)
    system = RunningSystem([])
    system._tasks = [SimpleNamespace(spec=SimpleNamespace(program="another"))]
    system._pids = {"worker": [ended.pid]}
    with pytest.raises(TaskFailed, match="a process ended"):
        system.measure(1, 1.0)
    system._tasks = []
    system.end()


def test_progress_says_what_runs_and_how_long_it_will() -> None:
    out, now = io.StringIO(), iter([0.0, 10.0, 210.0])
    progress = Progress(4, out, lambda: next(now))
    with progress.of("a") as say:
        say("1.0/s")
    with pytest.raises(TaskFailed), progress.of("b"):
        raise TaskFailed("It died.")
    progress.skip(1)
    with pytest.raises(KeyboardInterrupt), progress.of("c"):
        raise KeyboardInterrupt
    assert out.getvalue().splitlines() == [
        "1 of 4: a ... 1.0/s",
        "2 of 4, 30 s left: b ... failed: It died.",
        "3 of 3, 2 min left: c ... ",
    ]
