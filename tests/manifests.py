"""The manifests in k8s/ as kustomize builds them, and the pods that a cluster makes of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml"))


@dataclasses.dataclass(frozen=True)
class Pod:
    """A pod of the job; `host` is its name within the cluster, None where an operator chooses."""

    name: str
    host: str | None
    template: dict[str, Any]

    @property
    def role(self) -> str:
        return self.template["metadata"]["labels"]["tf-backup/role"]

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.template["spec"]["containers"]
        return container


@functools.cache
def _objects(directory: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(_text(directory)))


def _text(directory: Path) -> str:
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, directory], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return done.stdout
    pytest.skip("Neither kubectl nor kustomize is here: no manifest can be built.")


def build(overlay: str, k8s: Path = K8S) -> list[dict[str, Any]]:
    """Returns the objects of an overlay."""
    return copy.deepcopy(_objects(k8s / "overlays" / overlay))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def settings(objects: list[dict[str, Any]]) -> dict[str, str]:
    """Returns what the overlay says: REPLICAS, BACKUPS and so on."""
    (config,) = of_kind(objects, "ConfigMap")
    return config["data"]


def pods(objects: list[dict[str, Any]]) -> Iterator[Pod]:
    """Yields the pods of the training, with the names that their controllers give them."""
    for each in objects:
        name, spec = each["metadata"]["name"], each.get("spec", {})
        if each["kind"] == "Job":
            yield from _pods_of_job(name, spec)
        elif each["kind"] == "JobSet":
            for job in spec["replicatedJobs"]:
                for index in range(job["replicas"]):
                    pod = f"{name}-{job['name']}-{index}-0"
                    host = f"{pod}.{spec['network']['subdomain']}"
                    yield Pod(f"{pod}-x7k2p", host, job["template"]["spec"]["template"])
        elif each["kind"] == "TFJob":
            for kind, replica in spec["tfReplicaSpecs"].items():
                for index in range(replica["replicas"]):
                    yield Pod(f"{name}-{kind.lower()}-{index}", None, replica["template"])


def _pods_of_job(name: str, spec: dict[str, Any]) -> Iterator[Pod]:
    inside = spec["template"]["spec"]
    if spec.get("completionMode") == "Indexed":
        names = {f"{name}-{index}": f"{name}-{index}" for index in range(spec["completions"])}
    else:
        names = {name: inside["hostname"]}
    for pod, host in names.items():
        yield Pod(f"{pod}-x7k2p", f"{host}.{inside['subdomain']}", spec["template"])


def templates(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields every pod template, of training and of all else."""
    for each in objects:
        if each["kind"] in ("Deployment", "Job"):
            yield each["spec"]["template"]
        elif each["kind"] == "JobSet":
            for job in each["spec"]["replicatedJobs"]:
                yield job["template"]["spec"]["template"]
        elif each["kind"] == "TFJob":
            for replica in each["spec"]["tfReplicaSpecs"].values():
                yield replica["template"]


def environment(pod: Pod, objects: list[dict[str, Any]]) -> dict[str, str]:
    """Returns a container's environment as the kubelet makes it."""
    found = {}
    for source in pod.container.get("envFrom", []):
        found |= {source["prefix"] + key: text for key, text in settings(objects).items()}
    for entry in pod.container.get("env", []):
        if "valueFrom" in entry:
            assert entry["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            found[entry["name"]] = pod.name
        else:
            found[entry["name"]] = entry["value"]
    return found


def command(pod: Pod, variables: dict[str, str]) -> list[str]:
    """Returns a container's command and arguments, with $(VARIABLE) as the kubelet expands it."""
    words = [*pod.container["command"], *pod.container.get("args", [])]
    return [re.sub(r"\$\((\w+)\)", lambda m: variables.get(m[1], m[0]), word) for word in words]
