"""Timeouts for silent tasks: allowed and refused values."""

from __future__ import annotations

import contextlib
import json
import re
import types
from typing import Any

import pytest

import tf_backup
from tf_backup.cluster import strategy
from tf_backup.network import arrivals


@pytest.mark.parametrize("name", ["worker_timeout_s", "server_timeout_s", "start_timeout_s"])
@pytest.mark.parametrize("value", [0, -1.5, float("nan"), True, "30", None])
def test_a_timeout_must_be_a_positive_number(name: str, value: Any) -> None:
    message = re.escape(f"{name} is {value!r}; it must be a number above 0.")
    if (name, value) == ("start_timeout_s", None):
        return  # The default.
    with pytest.raises(ValueError, match=message):
        tf_backup.LocalCluster(1, **{name: value})
    with pytest.raises(ValueError, match=message):
        tf_backup.parameter_server_strategy(1, **{name: value})


def test_a_lease_is_longer_than_the_heartbeat() -> None:
    with pytest.raises(ValueError, match=r"worker_timeout_s is 1\.9; it must be at least 2, since"):
        tf_backup.LocalCluster(1, worker_timeout_s=1.9)
    tf_backup.LocalCluster(1, worker_timeout_s=2, server_timeout_s=0.1)


@pytest.mark.parametrize(
    ("name", "other"),
    [("worker_timeout_s", 5.0), ("server_timeout_s", 9.0), ("worker_restarts", 0)],
)
def test_a_later_call_must_have_the_same_arguments(
    name: str, other: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    given = {"worker_timeout_s": 30.0, "server_timeout_s": 30.0, "worker_restarts": 10}
    local = types.SimpleNamespace(workers=4, ps=1, strategy=lambda: "the strategy")
    monkeypatch.setattr(strategy, "_state", {"local": local, "given": given})
    assert tf_backup.parameter_server_strategy(4, 1, **given) == "the strategy"
    arguments: dict[str, Any] = {**given, name: other}
    with pytest.raises(ValueError) as caught:
        tf_backup.parameter_server_strategy(4, 1, **arguments)
    assert str(caught.value) == (
        f"{name} is {other}, but this process has a cluster already, with {given[name]}, which "
        "cannot be changed: give the same at each call, or call once and keep the strategy."
    )


def test_a_local_cluster_that_takes_too_long_to_start_says_what_to_raise() -> None:
    with (
        pytest.raises(tf_backup.ClusterError, match=r"has not answered for 0\.01 s"),
        tf_backup.LocalCluster(1, start_timeout_s=0.01),
    ):
        pass


def test_a_chief_waits_for_its_servers_as_long_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = {job: [f"localhost:{port}"] for job, port in (("chief", 1), ("worker", 2), ("ps", 3))}
    config = {"cluster": tasks, "task": {"type": "chief", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    monkeypatch.setattr(arrivals, "present", lambda address: contextlib.nullcontext())
    with pytest.raises(tf_backup.ClusterError, match=r"not complete after .*Start them, then run"):
        tf_backup.parameter_server_strategy(start_timeout_s=0.01)


def test_a_worker_waits_for_its_chief_as_long_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Served(Exception):
        pass

    def serve(chief_timeout_s: float) -> None:
        raise Served(chief_timeout_s)

    tasks = {job: [f"localhost:{port}"] for job, port in (("chief", 1), ("worker", 2), ("ps", 3))}
    config = {"cluster": tasks, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    monkeypatch.setattr(strategy, "serve", serve)
    with pytest.raises(Served, match="7"):
        tf_backup.parameter_server_strategy(chief_timeout_s=7.0)
