"""TF_CONFIG of a pod on Kubernetes, made from the pod's name and its job's settings.

The manifests in k8s/ set, in every pod:

    TF_BACKUP_POD       the pod's name, which ends in its task: train-worker-3, train-chief-x7k2p
    TF_BACKUP_ADDRESS   a task's address, with {task} for its name: "train-{task}.train:2222"
    TF_BACKUP_REPLICAS  N: the tasks worker-0 ... are workers 0 to N - 1
    TF_BACKUP_BACKUPS   b: the tasks backup-0 ... are workers N to N + b - 1
    TF_BACKUP_PS        the number of parameter servers
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_POD = "TF_BACKUP_POD"
_KUBERNETES = "KUBERNETES_SERVICE_HOST"  # Kubernetes sets it in every pod.
_ADDRESS = "TF_BACKUP_ADDRESS"
_COUNTS = {
    "ps": ("TF_BACKUP_PS", 1),
    "worker": ("TF_BACKUP_REPLICAS", 1),
    "backup": ("TF_BACKUP_BACKUPS", 0),
}
# A Job appends letters to a chief's name, and JobSet appends digits to the index.
_TASK = re.compile(r"-(?:(?P<chief>chief)-|(?P<set>ps|worker|backup)-(?P<index>\d+)(?:-|$))")


def is_pod(environment: Mapping[str, str]) -> bool:
    """Return whether `environment` is that of a pod of a job."""
    return bool(environment.get(_POD, "").strip())


def is_started_again(environment: Mapping[str, str]) -> bool:
    """Return whether `environment` is that of a pod, which its job starts again when it ends."""
    return is_pod(environment) or bool(environment.get(_KUBERNETES))


def tf_config(environment: Mapping[str, str]) -> str:
    """Return the TF_CONFIG of a pod.

    Args:
      environment: the pod's environment variables.

    Raises:
      ValueError: if a variable is invalid. The message names it, its value, and what it should
        be.
    """
    counts = {name: _count(environment, name) for name in _COUNTS}
    address = environment.get(_ADDRESS, "")
    if "{task}" not in address:
        raise ValueError(
            f"{_ADDRESS} is {address!r}; it must be the address of a task with {{task}} for its "
            "name, for instance 'train-{task}.train:2222'."
        )

    def addresses(name: str, count: int) -> list[str]:
        return [address.replace("{task}", f"{name}-{index}") for index in range(count)]

    name, index = _task(environment[_POD])
    if name != "chief" and index >= counts[name]:
        raise ValueError(
            f"The pod {environment[_POD]} is one too many: {_COUNTS[name][0]} is {counts[name]}. "
            f"Scale its set to {counts[name]} pods, or change the job's settings and begin it anew."
        )
    cluster = {
        "chief": addresses("chief", 1),
        "worker": [
            *addresses("worker", counts["worker"]),
            *addresses("backup", counts["backup"]),
        ],
        "ps": addresses("ps", counts["ps"]),
    }
    if name == "backup":
        name, index = "worker", counts["worker"] + index
    return json.dumps({"cluster": cluster, "task": {"type": name, "index": index}})


def _count(environment: Mapping[str, str], name: str) -> int:
    """Return the number of pods of a set."""
    variable, least = _COUNTS[name]
    text = environment.get(variable, "")
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise ValueError(f"{variable} is {text!r}; it must be an int of at least {least}.")
    return int(text)


def _task(pod: str) -> tuple[str, int]:
    """Return the set that a pod belongs to, and its index in it."""
    found = _TASK.search(pod)
    if found is None:
        raise ValueError(
            f"{_POD} is {pod!r}; it must end in one of the job's tasks, for instance "
            "'train-worker-3', 'train-backup-0', 'train-ps-0' or 'train-chief-0'."
        )
    return (found["set"], int(found["index"])) if found["set"] else ("chief", 0)
