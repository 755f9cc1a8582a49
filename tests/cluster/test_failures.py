"""Tasks that die during training, in other ways than in `test_faults`."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.cluster.processes import children, running, start, wait_until
from tests.extra import extra, with_extra


def run(*what: str) -> dict[str, Any]:
    """Run the small training while `what` happens; return what it printed."""
    process = start("-m", "tests.cluster.programs.train_small", *what)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


@extra
def test_a_killed_worker_is_missed_and_contributes_again_asynchronously() -> None:
    result = run("restart", "asynchronous")
    assert result["error"] is None
    assert result["back"]  # It is started 40 updates after it was killed.
    total = result["total"]
    assert total["accepted"] == result["iterations"]
    assert total["computed"] == sum(total[n] for n in total if n != "computed")
    assert result["workers"][1]["lost"] <= 1
    assert result["with_staleness"] == [record["accepted"] for record in result["workers"]]


@pytest.mark.long
def test_a_restarted_parameter_server_is_said_within_a_minute() -> None:
    result = run("restart_ps")
    assert result["error"] == "ParameterServerLost"
    assert "Parameter server 1" in result["message"]
    assert "has been restarted" in result["message"]
    assert result["seconds"] < 60


@extra  # test_faults has a frozen worker that is needed.
def test_too_few_workers_are_named_after_a_deadline() -> None:
    result = run("lose_workers")
    assert result["error"] == "WorkersLost"
    assert "worker 1 (localhost:" in result["message"]
    assert "worker 2 (localhost:" in result["message"]
    assert result["seconds"] < 60


@extra
def test_a_parameter_server_killed_in_validation_is_said() -> None:
    result = run("kill_ps_in_validation")
    assert result["error"] == "ParameterServerLost"
    assert result["seconds"] < 60


@extra
def test_no_worker_left_in_validation_is_said_after_a_deadline() -> None:
    result = run("lose_workers_in_validation")
    assert result["error"] == "WorkersLost"
    assert result["seconds"] < 60


@pytest.mark.parametrize("signum", with_extra([signal.SIGKILL, signal.SIGTERM], signal.SIGTERM))
def test_a_local_cluster_dies_with_its_parent(signum: int) -> None:
    process = start("-m", "tests.cluster.programs.train_small", "nothing")
    wait_until(lambda: len(children(process.pid)) == 5)
    servers = children(process.pid)
    os.kill(process.pid, signum)
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(running, servers)), timeout_s=10)
