"""Addresses of a cluster's tasks. The only reader of TF_CONFIG and of a pod's environment."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from tf_backup.cluster import pod
from tf_backup.network import address

JOBS = ("chief", "worker", "ps")

_EXAMPLE = (
    '{"cluster": {"chief": ["host0:2222"], "worker": ["host1:2222", "host2:2222"], '
    '"ps": ["host3:2222"]}, "task": {"type": "chief", "index": 0}}'
)


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Addresses of all tasks of a cluster, with the type and index of this process's task.

    Args:
      addresses: `host:port` of the tasks, by job ("chief", "worker", "ps").
      task_type: job of this process.
      task_index: index of this process in its job.

    Raises:
      ValueError: if a job has no task, if there are several chiefs, if two tasks have the same
        address, or if this process's task does not exist.
    """

    addresses: dict[str, list[str]]
    task_type: str
    task_index: int

    def __post_init__(self) -> None:
        for job in JOBS:
            if not self.addresses.get(job):
                raise ValueError(
                    f"TF_CONFIG's cluster has no {job!r} task: it needs one chief, at least one "
                    f"worker and at least one ps. For example: {_EXAMPLE}"
                )
        if len(self.addresses["chief"]) != 1:
            raise ValueError(
                f"TF_CONFIG's cluster has {len(self.addresses['chief'])} chiefs; it must have 1."
            )
        self._check_distinct()
        tasks = self.addresses.get(self.task_type)
        if tasks is None:
            raise ValueError(
                f"TF_CONFIG's task type is {self.task_type!r}; it must be one of the cluster's "
                f"jobs, {', '.join(sorted(self.addresses))}."
            )
        if not 0 <= self.task_index < len(tasks):
            raise ValueError(
                f"TF_CONFIG's task index is {self.task_index}, but the cluster's "
                f"{self.task_type!r} tasks are 0 to {len(tasks) - 1}."
            )

    def _check_distinct(self) -> None:
        """Check that no two tasks have the same address: the second could not listen there."""
        owners: dict[str, str] = {}
        for job in JOBS:
            for index, each in enumerate(self.addresses[job]):
                owner = owners.setdefault(each.lower(), f"{job} {index}")
                if owner != f"{job} {index}":
                    raise ValueError(
                        f"TF_CONFIG's cluster has {each!r} for both {owner} and {job} {index}; "
                        "each task needs an address of its own."
                    )

    @property
    def is_chief(self) -> bool:
        """Whether this process is the chief."""
        return self.task_type == "chief"

    def as_tf_config(self, task_type: str, task_index: int) -> str:
        """Return the TF_CONFIG of one of the tasks."""
        task = {"type": task_type, "index": task_index}
        return json.dumps({"cluster": self.addresses, "task": task})

    def resolver(self) -> Any:
        """Return the cluster as a TensorFlow cluster resolver."""
        import tensorflow as tf  # Here, because some callers only need addresses.

        return tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({job: self.addresses[job] for job in JOBS}),
            task_type=self.task_type,
            task_id=self.task_index,
            rpc_layer="grpc",
        )


def has_tf_config() -> bool:
    """Return whether this process is a task of a cluster, by TF_CONFIG or as a pod of a job."""
    return bool(os.environ.get("TF_CONFIG", "").strip()) or pod.is_pod(os.environ)


def is_started_again() -> bool:
    """Return whether this process is in a pod, which its job starts again when it ends."""
    return pod.is_started_again(os.environ)


def from_tf_config() -> ClusterConfig:
    """Read the cluster from TF_CONFIG, or in a pod without TF_CONFIG from its environment.

    An evaluator is left out of the cluster, because it only reads checkpoints.

    Raises:
      ValueError: if TF_CONFIG is invalid. The message names the wrong key, its value, and what it
        should be.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip() and pod.is_pod(os.environ):
        text = pod.tf_config(os.environ)
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"TF_CONFIG is not JSON ({error}): {text!r}. For example: {_EXAMPLE}"
        ) from None
    cluster = _field(config, "TF_CONFIG", "cluster", dict)
    task = _field(config, "TF_CONFIG", "task", dict)
    task_type = _field(task, "TF_CONFIG's task", "type", str)
    index = _field(task, "TF_CONFIG's task", "index", (int, str))
    try:
        task_index = int(index)
    except ValueError:
        raise ValueError(f"TF_CONFIG's task index is {index!r}; it must be an int.") from None
    # With an evaluator in the cluster, the strategy would hang for ever.
    addresses = {
        job: _addresses(job, tasks) for job, tasks in cluster.items() if job != "evaluator"
    }
    if task_type == "evaluator":
        raise ValueError(
            "TF_CONFIG makes this process an evaluator, which is no part of the training "
            "cluster: start it without TF_CONFIG, or as chief, worker or ps."
        )
    if "master" in addresses and "chief" not in addresses:
        raise ValueError("TF_CONFIG's cluster has a 'master' task; rename it to 'chief'.")
    unknown = sorted(set(addresses) - set(JOBS))
    if unknown:
        raise ValueError(
            f"TF_CONFIG's cluster has the unknown job {unknown[0]!r}; the jobs are "
            f"{', '.join(JOBS)} (and evaluator, which is ignored)."
        )
    return ClusterConfig(addresses, task_type, task_index)


def _field(holder: Any, name: str, key: str, kind: Any) -> Any:
    """Return `holder[key]`; raise ValueError if it is missing or not of type `kind`."""
    if not isinstance(holder, dict) or key not in holder:
        raise ValueError(f"{name} has no key {key!r}: {holder!r}. For example: {_EXAMPLE}")
    value = holder[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "a JSON object" if kind is dict else "a string" if kind is str else "an int"
        raise ValueError(f"{name}'s {key!r} is {value!r}; it must be {wanted}.")
    return value


def _addresses(job: str, tasks: Any) -> list[str]:
    """Return the tasks of a job; raise ValueError if they are not a list of `host:port`."""
    if not isinstance(tasks, list) or not tasks:
        raise ValueError(
            f"TF_CONFIG's cluster {job!r} is {tasks!r}; it must be a list of 'host:port'."
        )
    for each in tasks:
        try:
            address.split(each)
        except ValueError as error:
            raise ValueError(
                f"TF_CONFIG's cluster {job!r} has {each!r}; it must be 'host:port', for instance "
                f"'host1:2222': {error}."
            ) from None
    return list(tasks)
