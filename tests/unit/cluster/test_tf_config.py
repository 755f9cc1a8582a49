from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tf_backup.cluster import tf_config
from tf_backup.cluster.tf_config import ClusterConfig

ADDRESSES = {
    "chief": ["host0:2222"],
    "worker": ["host1:2222", "host2:2222"],
    "ps": ["host3:2222"],
}
CHIEF = {"type": "chief", "index": 0}
EXAMPLE = 'For example: {"cluster": {"chief": ["host0:2222"]'


def read(monkeypatch: pytest.MonkeyPatch, text: str) -> ClusterConfig:
    monkeypatch.setenv("TF_CONFIG", text)
    return tf_config.from_tf_config()


def read_parts(
    monkeypatch: pytest.MonkeyPatch, addresses: Any = ADDRESSES, task: Any = CHIEF
) -> ClusterConfig:
    return read(monkeypatch, json.dumps({"cluster": addresses, "task": task}))


def refusal(monkeypatch: pytest.MonkeyPatch, addresses: Any = ADDRESSES, task: Any = CHIEF) -> str:
    """Return the error message for a TF_CONFIG that must be refused."""
    with pytest.raises(ValueError) as error:
        read_parts(monkeypatch, addresses, task)
    return str(error.value)


def with_job(job: str, tasks: Any) -> dict[str, Any]:
    return {**ADDRESSES, job: tasks}


def without(job: str) -> dict[str, Any]:
    return {name: tasks for name, tasks in ADDRESSES.items() if name != job}


@pytest.mark.parametrize(
    ("job", "index", "is_chief"),
    [("chief", 0, True), ("worker", 0, False), ("worker", 1, False), ("ps", 0, False)],
)
def test_each_task_is_read(monkeypatch, job: str, index: int, is_chief: bool):
    config = read_parts(monkeypatch, task={"type": job, "index": index})
    assert config == ClusterConfig(ADDRESSES, job, index)
    assert config.is_chief is is_chief


def test_index_as_a_string_is_accepted(monkeypatch):
    assert read_parts(monkeypatch, task={"type": "worker", "index": "1"}).task_index == 1
    assert read_parts(monkeypatch, task={"type": "chief", "index": "0"}).task_index == 0


def test_other_keys_are_nobodys_business(monkeypatch):
    text = {"cluster": ADDRESSES, "task": {**CHIEF, "trial": "4"}, "environment": "cloud"}
    assert read(monkeypatch, json.dumps(text)) == ClusterConfig(ADDRESSES, "chief", 0)


@pytest.mark.parametrize("address", ["10.0.0.1:1", "[::1]:2222", "ps-0.ps.ns.svc:2222"])
def test_addresses_of_all_kinds(monkeypatch, address: str):
    assert read_parts(monkeypatch, with_job("ps", [address])).addresses["ps"] == [address]


def test_evaluator_is_left_out_of_the_cluster(monkeypatch):
    config = read_parts(monkeypatch, with_job("evaluator", ["host4:2222"]))
    assert config.addresses == ADDRESSES
    assert sorted(config.resolver().cluster_spec().jobs) == ["chief", "ps", "worker"]


def test_evaluator_as_this_process_is_refused(monkeypatch):
    addresses = with_job("evaluator", ["host4:2222"])
    message = refusal(monkeypatch, addresses, {"type": "evaluator", "index": 0})
    assert "makes this process an evaluator" in message
    assert "start it without TF_CONFIG, or as chief, worker or ps" in message


def test_round_trip_to_another_task(monkeypatch):
    config = read_parts(monkeypatch)
    assert read(monkeypatch, config.as_tf_config("worker", 1)) == ClusterConfig(
        ADDRESSES, "worker", 1
    )


def test_resolver_tells_tensorflow_the_same(monkeypatch):
    resolver = read_parts(monkeypatch, task={"type": "worker", "index": 1}).resolver()
    assert resolver.cluster_spec().as_dict() == ADDRESSES
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
    assert resolver.rpc_layer == "grpc"


@pytest.mark.parametrize(("text", "is_set"), [(None, False), ("", False), (" \n", False)])
def test_has_no_tf_config(monkeypatch, text: str | None, is_set: bool):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    assert tf_config.has_tf_config() is is_set


def test_has_a_malformed_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")  # To be refused, not ignored.
    assert tf_config.has_tf_config() is True


# ---- Malformed: the message names the key, what it holds, and what was expected -----------------


@pytest.mark.parametrize("text", ["", "{", "cluster: {}", "{'cluster': {}}"])
def test_not_json(monkeypatch, text: str):
    with pytest.raises(ValueError) as error:
        read(monkeypatch, text)
    assert str(error.value).startswith("TF_CONFIG is not JSON (")
    assert repr(text) in str(error.value)
    assert EXAMPLE in str(error.value)


@pytest.mark.parametrize("text", ["null", "[]", "7", '"chief"', "{}", '{"task": {}}'])
def test_no_cluster(monkeypatch, text: str):
    with pytest.raises(ValueError) as error:
        read(monkeypatch, text)
    held = f"TF_CONFIG has no key 'cluster': {json.loads(text)!r}. {EXAMPLE}"
    assert str(error.value).startswith(held)


def test_no_task(monkeypatch):
    with pytest.raises(ValueError) as error:
        read(monkeypatch, json.dumps({"cluster": ADDRESSES}))
    assert f"TF_CONFIG has no key 'task': {{'cluster': {ADDRESSES!r}}}. {EXAMPLE}" in str(
        error.value
    )


@pytest.mark.parametrize("value", [None, [], "chief", 1, True])
@pytest.mark.parametrize("key", ["cluster", "task"])
def test_part_that_is_no_object(monkeypatch, key: str, value: Any):
    parts = {"addresses" if key == "cluster" else "task": value}
    message = refusal(monkeypatch, **parts)
    assert message == f"TF_CONFIG's {key!r} is {value!r}; it must be a JSON object."


@pytest.mark.parametrize("key", ["type", "index"])
def test_task_without_a_key(monkeypatch, key: str):
    task = {name: value for name, value in CHIEF.items() if name != key}
    message = refusal(monkeypatch, task=task)
    assert message.startswith(f"TF_CONFIG's task has no key {key!r}: {task!r}. {EXAMPLE}")


@pytest.mark.parametrize("value", [None, 0, ["chief"], True])
def test_task_type_that_is_no_string(monkeypatch, value: Any):
    message = refusal(monkeypatch, task={"type": value, "index": 0})
    assert message == f"TF_CONFIG's task's 'type' is {value!r}; it must be a string."


@pytest.mark.parametrize("value", [None, 0.0, [0], True])
def test_task_index_that_is_no_int(monkeypatch, value: Any):
    message = refusal(monkeypatch, task={"type": "chief", "index": value})
    assert message == f"TF_CONFIG's task's 'index' is {value!r}; it must be an int."


@pytest.mark.parametrize("value", ["", "one", "0.0"])
def test_task_index_that_reads_as_no_int(monkeypatch, value: str):
    message = refusal(monkeypatch, task={"type": "chief", "index": value})
    assert message == f"TF_CONFIG's task index is {value!r}; it must be an int."


@pytest.mark.parametrize("index", [2, -1, "2"])
def test_task_index_out_of_range(monkeypatch, index: Any):
    message = refusal(monkeypatch, task={"type": "worker", "index": index})
    wanted = f"TF_CONFIG's task index is {index}, but the cluster's 'worker' tasks are 0 to 1."
    assert message == wanted


def test_task_type_that_is_no_job(monkeypatch):
    message = refusal(monkeypatch, task={"type": "boss", "index": 0})
    assert message == (
        "TF_CONFIG's task type is 'boss'; it must be one of the cluster's jobs, chief, ps, worker."
    )


@pytest.mark.parametrize("tasks", [None, [], {}, {"0": "host1:2222"}, "host1:2222", 3])
def test_job_that_is_no_list(monkeypatch, tasks: Any):
    message = refusal(monkeypatch, with_job("worker", tasks))
    wanted = f"TF_CONFIG's cluster 'worker' is {tasks!r}; it must be a list of 'host:port'."
    assert message == wanted


@pytest.mark.parametrize("address", ["host1", "host1:", ":2222", "", "host1:http", 2222, None])
def test_address_that_is_no_host_and_port(monkeypatch, address: Any):
    message = refusal(monkeypatch, with_job("worker", ["host2:2222", address]))
    wanted = f"TF_CONFIG's cluster 'worker' has {address!r}; it must be 'host:port', for instance"
    assert message.startswith(wanted)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://host:22", "leave out 'http://'."),
        ("::1", "an IPv6 address needs brackets, as in '[::1]:2222'."),
        ("host1:99999", "the port '99999' is not a number from 1 to 65535."),
    ],
)
def test_address_is_refused_with_the_reason(monkeypatch, address: str, reason: str):
    message = refusal(monkeypatch, with_job("ps", [address]))
    assert message.endswith(f"for instance 'host1:2222': {reason}")


@pytest.mark.parametrize("address", ["host1:2222", "HOST1:2222"])
def test_one_address_for_two_tasks(monkeypatch, address: str):
    message = refusal(monkeypatch, with_job("ps", ["host3:2222", address]))
    assert message == (
        f"TF_CONFIG's cluster has {address!r} for both worker 0 and ps 1; each task needs an "
        "address of its own."
    )


@pytest.mark.parametrize("job", ["chief", "worker", "ps"])
def test_cluster_without_a_job(monkeypatch, job: str):
    task = {"type": "worker" if job == "chief" else "chief", "index": 0}
    message = refusal(monkeypatch, without(job), task)
    assert message.startswith(f"TF_CONFIG's cluster has no {job!r} task: it needs one chief")
    assert EXAMPLE in message


def test_two_chiefs(monkeypatch):
    message = refusal(monkeypatch, with_job("chief", ["host0:2222", "host9:2222"]))
    assert message == "TF_CONFIG's cluster has 2 chiefs; it must have 1."


def test_master_is_to_be_renamed(monkeypatch):
    addresses = {**without("chief"), "master": ["host0:2222"]}
    message = refusal(monkeypatch, addresses, {"type": "master", "index": 0})
    assert message == "TF_CONFIG's cluster has a 'master' task; rename it to 'chief'."


@pytest.mark.parametrize("job", ["gpu", "master"])
def test_unknown_job(monkeypatch, job: str):
    message = refusal(monkeypatch, with_job(job, ["host4:2222"]))
    wanted = f"cluster has the unknown job {job!r}; the jobs are chief, worker, ps"
    assert re.search(re.escape(wanted), message)
