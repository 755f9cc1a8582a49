"""Workers and servers that die, freeze, thaw and come back while others train."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import numpy as np
import pytest

from tests.cluster.processes import children, running, start, start_fresh, wait_until
from tests.extra import extra, with_extra

LEASE_S = 3.0


def run(timeout_s: float = 240.0, **plan: Any) -> tuple[dict[str, Any], str]:
    """Run training by a plan; return what it printed, and its log."""
    plan = {
        "workers": 4,
        "ps": 1,
        "worker_timeout_s": LEASE_S,
        "server_timeout_s": 5.0,
        "stall_timeout_s": 60.0,
        "updates": 200,
        "finish": False,
        **plan,
    }
    process = start("-m", "tests.cluster.programs.faults", json.dumps(plan))
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err[-3000:]
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert not children(process.pid)
    return result, err


def check_accounts(result: dict[str, Any], replicas: int, shrinks: bool = False) -> None:
    assert result["error"] is None, result
    for counts in [result["total"], *result["workers"]]:
        assert counts["computed"] == sum(
            counts[name] for name in ("accepted", "late", "stale", "duplicate", "lost", "nonfinite")
        )
    assert result["total"]["accepted"] == sum(size * count for size, count in result["sizes"])
    assert sum(count for _, count in result["sizes"]) == result["iterations"]
    # The timeline has a row for every gradient, with the same verdict.
    assert result["timeline"] == result["total"]
    if not shrinks:
        assert result["sizes"] == [[replicas, result["iterations"]]]


@pytest.mark.long
def test_workers_die_and_come_back_in_any_order() -> None:
    """One is gone for good; those that restart afterwards still get places."""
    result, _ = run(
        replicas=2,
        faults=[
            [30, "kill", "worker", 3],
            [60, "kill", "worker", 2],
            [60, "start", "worker", 2],
            [120, "kill", "worker", 1],
            [120, "start", "worker", 1],
        ],
        finish=True,
    )
    check_accounts(result, replicas=2)
    assert result["pause_s"] < LEASE_S + 3.0  # A lease, and a step while others start up.
    assert [sorted(each) for each in result["restarts"]] == 2 * [
        ["back_s", "before", "since", "worker"]
    ]


def test_a_frozen_worker_holds_nobody_up_and_contributes_again() -> None:
    result, log = run(
        replicas=3,
        faults=[[30, "freeze", "worker", 1], [400, "thaw", "worker", 1]],
        updates=700,
        in_validation=[["freeze", "worker", 2]],
    )
    check_accounts(result, replicas=3)
    assert result["pause_s"] < 3.0
    assert result["evaluations_s"][0] < 30.0
    assert "Lost worker 1" in log
    assert "Worker 1 (localhost:" in log  # ... is back.
    frozen = result["workers"][1]
    assert frozen["lost"] >= 1
    assert frozen["accepted"] > 30


# One of three workers goes, then a second; both come back, one after the other.
TWO_AWAY = [
    [20, "kill", "worker", 2],
    [60, "freeze", "worker", 1],
    [120, "thaw", "worker", 1],
    [120, "start", "worker", 2],
]


@pytest.mark.long
@pytest.mark.parametrize("ps", [1])  # test_auto_replicas has two.
def test_updates_are_made_of_fewer_gradients_while_workers_are_missing(ps: int) -> None:
    """N = 3 of three: one dies, then a second; both come back, one after the other."""
    result, log = run(
        workers=3,
        ps=ps,
        replicas=3,
        on_shortage="shrink",
        faults=TWO_AWAY,
        finish=True,
        updates=200,
    )
    check_accounts(result, replicas=3, shrinks=True)
    sizes = [size for size, _ in result["sizes"]]
    assert sizes in ([3, 2, 1, 2, 3], [3, 2, 1, 3]), result["sizes"]
    assert "an update is the mean of 2 gradients instead of 3" in log
    assert "an update is the mean of 3 gradients instead of" in log
    assert result["pause_s"] < LEASE_S + 3.0
    assert result["loss"] < 0.5


@extra
def test_updates_have_as_many_gradients_while_workers_are_missing() -> None:
    """The same with updates of three; then two die at almost the same time."""
    result, log = run(
        workers=3,
        ps=2,
        replicas=3,
        on_shortage="fill",
        faults=[
            *TWO_AWAY,
            [200, "kill", "worker", 0],
            [201, "kill", "worker", 1],
            [260, "start", "worker", 1],
            [270, "start", "worker", 0],
        ],
        finish=True,
        updates=300,
    )
    check_accounts(result, replicas=3)
    assert "an update takes at most 3 gradient(s) of a worker instead of 2" in log
    assert "an update takes at most 1 gradient(s) of a worker instead of" in log
    assert result["loss"] < 0.5


@pytest.mark.long
def test_a_frozen_worker_that_is_needed_is_named_and_waited_for() -> None:
    result, log = run(
        workers=2,
        replicas=2,
        worker_timeout_s=13.0,  # After the first log message about it, at 10 s.
        faults=[[20, "freeze", "worker", 1]],
        later=[],
        stall_timeout_s=3.0,
        updates=100,
    )
    assert result["error"] == "WorkersLost"
    assert "not heard of: worker 1 (localhost:" in log
    assert "worker 1 (localhost:" in result["message"]


@pytest.mark.long  # Those that are killed: see test_pods, test_restarts and test_failures.
@pytest.mark.parametrize(
    ("what", "index"),
    with_extra([("kill", 1), ("freeze", 0), ("freeze", 1)], ("kill", 1), ("freeze", 1)),
)
def test_a_parameter_server_that_is_gone_or_frozen_ends_training(what: str, index: int) -> None:
    result, _ = run(workers=2, ps=2, replicas=1, faults=[[20, what, "ps", index]])
    assert result["error"] == "ParameterServerLost"
    assert f"Parameter server {index} (localhost:" in result["message"]
    assert result["since_last_fault_s"] < 60


FAULTS = int(os.environ.get("TF_BACKUP_TEST_FAULTS", "5"))


@extra  # The same faults at other moments.
def test_random_faults_cost_no_more_than_a_lease() -> None:
    """TF_BACKUP_TEST_FAULTS=60, for example, makes it longer."""
    rng = np.random.default_rng(4)
    faults: list[list[Any]] = []
    state = ["runs"] * 5
    for number in range(FAULTS):
        up = [worker for worker in range(5) if state[worker] == "runs"]
        down = [worker for worker in range(5) if state[worker] != "runs"]
        if len(down) < 2 and (not down or rng.random() < 0.6):
            worker, what = int(rng.choice(up)), str(rng.choice(["kill", "freeze"]))
            state[worker] = what
        else:
            worker = int(rng.choice(down))
            what = "start" if state[worker] == "kill" else "thaw"
            state[worker] = "runs"
        faults.append([40 * (number + 1), what, "worker", worker])
    updates = 40 * (FAULTS + 2)
    result, _ = run(timeout_s=1200.0, workers=5, replicas=3, faults=faults, updates=updates)
    check_accounts(result, replicas=3)
    assert result["iterations"] == updates
    assert result["pause_s"] < LEASE_S + 3.0
    assert result["loss"] < 0.5
    print(json.dumps(result))


INTERRUPTS = int(os.environ.get("TF_BACKUP_TEST_INTERRUPTS", "1"))


@pytest.mark.parametrize("number", range(INTERRUPTS))
def test_an_interrupt_at_any_moment_ends_it_with_its_code(number: int) -> None:
    """TF_BACKUP_TEST_INTERRUPTS=50 tries fifty moments."""
    rng = np.random.default_rng(number)
    process = start_fresh(
        "scripts/train.py", "--updates=100000", "--replicas=1", "--backups=1", PYTHONUNBUFFERED="1"
    )
    moment = float(rng.uniform(3.0, 16.0))  # TensorFlow's import, the cluster, tracing, training.
    time.sleep(moment)
    servers = children(process.pid)
    interrupt = rng.random() < 0.7
    begin = time.monotonic()
    process.send_signal(signal.SIGINT if interrupt else signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    took = time.monotonic() - begin
    assert process.returncode == (1 if interrupt else 143), (moment, err[-2000:])
    assert "Traceback" not in err, err[-3000:]
    assert ("Interrupted" if interrupt else "Told to end") in err
    wait_until(lambda: not any(map(running, servers)), timeout_s=10)
    print(f"after {moment:.1f} s: ended within {took:.1f} s")
