from __future__ import annotations

import json

import pytest

from tf_backup.cluster import pod, tf_config
from tf_backup.cluster.tf_config import ClusterConfig

JOB = {
    "TF_BACKUP_ADDRESS": "train-{task}.train:2222",
    "TF_BACKUP_REPLICAS": "2",
    "TF_BACKUP_BACKUPS": "1",
    "TF_BACKUP_PS": "1",
}
ADDRESSES = {
    "chief": ["train-chief-0.train:2222"],
    "worker": [
        "train-worker-0.train:2222",
        "train-worker-1.train:2222",
        "train-backup-0.train:2222",
    ],
    "ps": ["train-ps-0.train:2222"],
}


def read(name: str, **changes: str) -> tuple[str, int]:
    """Return the task of a pod, after checking its cluster."""
    config = json.loads(pod.tf_config({**JOB, "TF_BACKUP_POD": name, **changes}))
    assert config["cluster"] == ADDRESSES
    return config["task"]["type"], config["task"]["index"]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("train-worker-0", ("worker", 0)),
        ("train-worker-1", ("worker", 1)),
        ("train-backup-0", ("worker", 2)),
        ("train-ps-0", ("ps", 0)),
        ("train-chief-x7k2p", ("chief", 0)),  # In a Job.
        ("train-chief-24579", ("chief", 0)),
        ("train-chief-0-0-x7k2p", ("chief", 0)),  # In a JobSet.
        ("train-worker-1-0-x7k2p", ("worker", 1)),
        ("train-backup-0-0-x7k2p", ("worker", 2)),
    ],
)
def test_a_pod_knows_its_task(name: str, task: tuple[str, int]) -> None:
    assert read(name) == task


@pytest.mark.parametrize(
    "name", ["train", "worker-0", "train-worker", "train-worker-x7k2p", "-ps-"]
)
def test_a_name_without_a_task(name: str) -> None:
    with pytest.raises(ValueError, match=f"TF_BACKUP_POD is '{name}'; it must end in one of"):
        read(name)


@pytest.mark.parametrize(
    ("name", "variable", "count"),
    [
        ("train-worker-2", "REPLICAS", 2),  # It would be taken for the first backup.
        ("train-backup-1", "BACKUPS", 1),
        ("train-ps-1", "PS", 1),
    ],
)
def test_a_set_that_was_scaled_up(name: str, variable: str, count: int) -> None:
    message = f"The pod {name} is one too many: TF_BACKUP_{variable} is {count}. Scale its set to "
    with pytest.raises(ValueError, match=message):
        read(name)


@pytest.mark.parametrize(
    ("variable", "least"),
    [("TF_BACKUP_REPLICAS", 1), ("TF_BACKUP_BACKUPS", 0), ("TF_BACKUP_PS", 1)],
)
@pytest.mark.parametrize("text", ["", "two", "-1", "1.5", "$(N)"])
def test_a_count_that_is_none(variable: str, least: int, text: str) -> None:
    with pytest.raises(ValueError) as error:
        read("train-worker-0", **{variable: text})
    assert str(error.value) == f"{variable} is {text!r}; it must be an int of at least {least}."


@pytest.mark.parametrize("variable", ["TF_BACKUP_REPLICAS", "TF_BACKUP_PS"])
def test_a_job_without_workers_or_ps(variable: str) -> None:
    with pytest.raises(ValueError, match=f"{variable} is '0'; it must be an int of at least 1"):
        read("train-chief-0", **{variable: "0"})


def test_no_backups() -> None:
    environment = {**JOB, "TF_BACKUP_POD": "train-ps-0", "TF_BACKUP_BACKUPS": "0"}
    config = json.loads(pod.tf_config(environment))
    assert config["cluster"]["worker"] == ADDRESSES["worker"][:2]


@pytest.mark.parametrize("address", ["", "train:2222", "train-{}.train:2222"])
def test_an_address_without_its_task(address: str) -> None:
    with pytest.raises(ValueError, match=r"TF_BACKUP_ADDRESS is .*; it must be the address of a"):
        read("train-worker-0", TF_BACKUP_ADDRESS=address)


def test_other_environments_are_no_pods() -> None:
    assert not pod.is_pod({**JOB, "POD_NAME": "train-worker-0"})
    assert not pod.is_pod({**JOB, "TF_BACKUP_POD": ""})
    assert pod.is_pod({"TF_BACKUP_POD": "nonsense"})  # To be refused, not ignored.


# ---- As the library reads it ---------------------------------------------------------------------


@pytest.fixture
def in_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in {**JOB, "TF_BACKUP_POD": "train-backup-0"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_a_pod")
def test_a_pod_is_a_task_of_a_cluster() -> None:
    assert tf_config.has_tf_config()
    assert tf_config.from_tf_config() == ClusterConfig(ADDRESSES, "worker", 2)


@pytest.mark.usefixtures("in_a_pod")
def test_an_operators_tf_config_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ClusterConfig({"chief": ["a:1"], "worker": ["b:2"], "ps": ["c:3"]}, "ps", 0)
    monkeypatch.setenv("TF_CONFIG", given.as_tf_config("ps", 0))
    assert tf_config.from_tf_config() == given


@pytest.mark.usefixtures("in_a_pod")
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_BACKUP_ADDRESS", "{task}")
    with pytest.raises(ValueError, match="'chief' has 'chief-0'; it must be 'host:port'"):
        tf_config.from_tf_config()
