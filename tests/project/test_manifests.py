"""k8s/: every overlay builds, is valid, safe, and states N and b once."""

from __future__ import annotations

import collections
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from scripts import exits
from scripts.training import presets
from tests.manifests import (
    K8S,
    OVERLAYS,
    build,
    command,
    environment,
    of_kind,
    pods,
    settings,
    templates,
)
from tests.unit import prepared_data
from tf_backup.cluster import pod as pod_module

pytestmark = pytest.mark.slow  # Computes for seconds.

VERSIONS = ["1.29", "1.32", "1.36"]
CUSTOM = {"JobSet", "TFJob"}

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
all_manifests = pytest.mark.parametrize("overlay", [*OVERLAYS, "../data"])


def shape(objects: list[dict[str, Any]]) -> tuple[int, int, int]:
    stated = settings(objects)
    return int(stated["REPLICAS"]), int(stated["BACKUPS"]), int(stated["PS"])


def job_named(name: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    (job,) = (each for each in of_kind(objects, "Job") if each["metadata"]["name"] == name)
    return job


def check_shape(objects: list[dict[str, Any]]) -> None:
    """Check that everything follows from N, b and the number of ps."""
    replicas, backups, ps = shape(objects)
    made = list(pods(objects))
    count = collections.Counter(pod.role for pod in made)
    assert count == {"chief": 1, "worker": replicas + backups, "ps": ps}
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == replicas
    chosen = budget["spec"]["selector"]["matchLabels"].items()
    budgeted = [pod for pod in made if chosen <= pod.template["metadata"]["labels"].items()]
    assert {pod.role for pod in budgeted} == {"worker"}
    assert len(budgeted) == replicas + backups
    (chief,) = (pod for pod in made if pod.role == "chief")
    flags = command(chief, environment(chief, objects))
    assert f"--replicas={replicas}" in flags
    assert f"--backups={backups}" in flags
    assert not [flag for flag in flags if "$(" in flag]


def test_there_are_the_overlays_that_the_readme_names() -> None:
    readme = (K8S / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", readme, re.MULTILINE)) == set(OVERLAYS)


@all_manifests
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(overlay: str, version: str) -> None:
    unknown = set()
    for each in build(overlay):
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unknown.add(each["kind"])
    assert unknown == CUSTOM & {each["kind"] for each in build(overlay)}


@each_overlay
def test_pods_of_custom_resources_are_valid(overlay: str) -> None:
    for template in templates(build(overlay)):
        spec = {"restartPolicy": "Always", **template["spec"]}
        named = {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": spec}
        kubernetes_validate.validate(named, VERSIONS[-1], strict=True)


@each_overlay
def test_pods_read_the_settings_that_they_were_made_with(overlay: str, tmp_path: Path) -> None:
    # A kubelet caches a ConfigMap as long as a pod that is ending refers to its name.
    shutil.copytree(K8S, tmp_path / "k8s")
    path = tmp_path / "k8s" / "overlays" / overlay / "kustomization.yaml"
    path.write_text(re.sub(r"- MODEL=\w+", "- MODEL=other", path.read_text(encoding="utf-8")))
    names = set()
    for objects in (build(overlay), build(overlay, tmp_path / "k8s")):
        (config,) = of_kind(objects, "ConfigMap")
        assert config["metadata"]["labels"]["app.kubernetes.io/name"] == "train"  # For deleting it.
        reference = r"'configMap(?:Ref)?': {(?:'items': \[[^]]*\], )?'name': '([^']+)'"
        named = re.findall(reference, str(objects))
        assert len(named) == str(objects).count("'configMap")
        assert {*named} == {config["metadata"]["name"]}
        names |= {*named}
    assert len(names) == 2


@each_overlay
def test_everything_follows_from_the_shape(overlay: str) -> None:
    check_shape(build(overlay))


@pytest.mark.parametrize("new", [(7, 4, 3), (3, 0, 1)])
@pytest.mark.parametrize("overlay", ["local", "pixelcnn", "jobset"])
def test_a_shape_is_changed_in_one_place(
    overlay: str, new: tuple[int, int, int], tmp_path: Path
) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    path = tmp_path / "k8s" / "overlays" / overlay / "kustomization.yaml"
    text = path.read_text(encoding="utf-8")
    for name, value in zip(("REPLICAS", "BACKUPS", "PS"), new, strict=True):
        text, times = re.subn(rf"- {name}=\d+", f"- {name}={value}", text)
        assert times == 1, name
    path.write_text(text, encoding="utf-8")
    objects = build(overlay, tmp_path / "k8s")
    assert shape(objects) == new
    check_shape(objects)


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"tfjob"}))
def test_every_address_is_that_of_a_pod(overlay: str) -> None:
    objects = build(overlay)
    made = list(pods(objects))
    known = {f"{pod.host}:2222" for pod in made}
    for pod in made:
        config = json.loads(pod_module.tf_config(environment(pod, objects)))
        cluster, task = config["cluster"], config["task"]
        assert {address for tasks in cluster.values() for address in tasks} == known
        assert sum(map(len, cluster.values())) == len(made)
        assert cluster[task["type"]][task["index"]] == f"{pod.host}:2222"
        assert task["type"] == pod.role


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"tfjob", "jobset"}))
def test_names_are_served_before_pods_are_ready(overlay: str) -> None:
    objects = build(overlay)
    (service,) = (
        each for each in of_kind(objects, "Service") if each["metadata"]["name"] == "train"
    )
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    for pod in pods(objects):
        assert service["spec"]["selector"].items() <= pod.template["metadata"]["labels"].items()


def test_tfjob_is_given_what_the_operator_wants() -> None:
    objects = build("tfjob")
    for pod in pods(objects):
        assert pod.container["name"] == "tensorflow"
        assert {"name": "tfjob-port", "containerPort": 2222} in pod.container["ports"]
        assert "TF_BACKUP_POD" not in environment(pod, objects)  # The operator sets TF_CONFIG.
    (job,) = of_kind(objects, "TFJob")
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"
    for replica in job["spec"]["tfReplicaSpecs"].values():
        assert replica["restartPolicy"] == "ExitCode"
    assert exits.WRONG < 128 <= min(exits.LOST, exits.TERMINATED)


def test_jobset_ends_with_its_chief() -> None:
    (job,) = of_kind(build("jobset"), "JobSet")
    assert job["spec"]["successPolicy"] == {"operator": "All", "targetReplicatedJobs": ["chief"]}
    assert job["spec"]["network"]["publishNotReadyAddresses"] is True
    (rule,) = job["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["targetReplicatedJobs"]) == ("FailJobSet", ["chief"])
    limits = {each["name"]: each["template"]["spec"] for each in job["spec"]["replicatedJobs"]}
    assert limits["chief"]["backoffLimit"] == limits["ps"]["backoffLimit"] == 0
    assert limits["chief"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [exits.WRONG]


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"tfjob", "jobset"}))
def test_chief_is_tried_again_unless_its_input_is_wrong(overlay: str) -> None:
    job = job_named("train-chief", build(overlay))
    wrong, disrupted = job["spec"]["podFailurePolicy"]["rules"]
    assert wrong["action"] == "FailJob"
    assert wrong["onExitCodes"]["values"] == [exits.WRONG]
    assert disrupted["action"] == "Ignore"
    assert job["spec"]["backoffLimit"] >= 10
    assert job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 120


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"tfjob", "jobset"}))
def test_tasks_come_back_one_by_one_until_they_end_well(overlay: str) -> None:
    objects = build(overlay)
    for name in ("train-worker", "train-backup", "train-ps"):
        spec = job_named(name, objects)["spec"]
        assert spec["completionMode"] == "Indexed"
        assert spec["parallelism"] == spec["completions"]
        assert spec["backoffLimitPerIndex"] >= 100
        assert spec["template"]["spec"]["restartPolicy"] == "Never"  # For backoffLimitPerIndex.
        # With a failure policy, pods of a lost node would not be replaced.
        assert not {"podFailurePolicy", "podReplacementPolicy", "backoffLimit"} & spec.keys()
    assert exits.LOST != 0 != exits.TERMINATED  # Exits after which a pod is started again.


@all_manifests
def test_pods_are_restricted(overlay: str) -> None:
    """Check the Pod Security Standard "restricted", and stricter rules."""
    for template in templates(build(overlay)):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert "serviceAccountName" not in spec
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
        assert all(volume.keys() - {"name"} <= allowed for volume in spec["volumes"])
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@each_overlay
def test_resources_and_probes(overlay: str) -> None:
    for template in templates(build(overlay)):
        (container,) = template["spec"]["containers"]
        asked, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert asked["memory"] == limits["memory"]
        assert "cpu" in asked
        assert "cpu" not in limits
        probes = [value for name, value in container.items() if name.endswith("Probe")]
        assert all("tcpSocket" in probe for probe in probes)
        if template["metadata"]["labels"].get("tf-backup/role") != "chief":
            startup = container["startupProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
            assert "readinessProbe" in container  # The budget counts ready pods.


@each_overlay
def test_only_the_job_may_talk_to_its_servers(overlay: str) -> None:
    objects = build(overlay)
    (policy,) = (
        each for each in of_kind(objects, "NetworkPolicy") if each["metadata"]["name"] == "train"
    )
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert all(
        chosen.items() <= pod.template["metadata"]["labels"].items() for pod in pods(objects)
    )
    (grpc,) = (
        rule
        for rule in policy["spec"]["ingress"]
        if {"protocol": "TCP", "port": 2222} in rule["ports"]
    )
    assert grpc["from"] == [{"podSelector": {"matchLabels": chosen}}]
    open_to_all = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert open_to_all == [[{"protocol": "TCP", "port": 9090}]]


@each_overlay
def test_prometheus_finds_the_chief(overlay: str) -> None:
    for pod in pods(build(overlay)):
        annotations = pod.template["metadata"].get("annotations", {})
        if pod.role == "chief":
            assert annotations["prometheus.io/scrape"] == "true"
            port = annotations["prometheus.io/port"]
            assert f"--metrics_port={port}" in pod.container["args"]
            assert {"name": "metrics", "containerPort": int(port)} in pod.container["ports"]
        else:
            assert not annotations


@each_overlay
def test_one_image_is_every_role(overlay: str) -> None:
    images = {
        container["image"]
        for template in templates(build(overlay))
        for container in template["spec"]["containers"]
    }
    assert images in ({"tf-backup:cpu"}, {"tf-backup:gpu"})
    commands = {tuple(pod.container["command"]) for pod in pods(build(overlay))}
    assert commands == {("python", "scripts/train.py")}


@each_overlay
def test_backups_are_workers_like_all_others(overlay: str) -> None:
    workers = [pod.template["spec"] for pod in pods(build(overlay)) if pod.role == "worker"]
    assert all(spec == workers[0] for spec in workers)


@each_overlay
def test_gpus_go_with_the_image_for_them(overlay: str) -> None:
    for pod in pods(build(overlay)):
        limits = pod.container["resources"]["limits"]
        wanted = pod.role == "worker" and pod.container["image"].endswith(":gpu")
        assert limits.get("nvidia.com/gpu") == (1 if wanted else None)


@all_manifests
def test_what_is_mounted_is_there(overlay: str) -> None:
    objects = build(overlay)
    made = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    for template in templates(objects):
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = [mount for each in spec["containers"] for mount in each["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == volumes.keys()
        claims = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes.values()
            if "persistentVolumeClaim" in volume
        }
        assert claims <= made | {"train-data"}  # The data outlives the job.


@each_overlay
def test_data_is_mounted_where_the_model_needs_it(overlay: str) -> None:
    objects = build(overlay)
    stated = settings(objects)
    recipe = presets.find(stated["MODEL"], stated["RECIPE"])
    needed = recipe.dataset not in ("digits", "topics")
    for pod in pods(objects):
        mounts = {mount["mountPath"] for mount in pod.container["volumeMounts"]}
        assert ("/data" in mounts) == (needed and pod.role in ("chief", "worker"))
        if pod.role == "chief":
            assert ("--data_dir=/data" in pod.container["args"]) == needed


@pytest.mark.parametrize(
    ("overlay", "model", "shape_of_paper"),
    [
        ("inception-50", "inception_v3", (50, 3, 17)),
        ("inception-100", "inception_v3", (100, 6, 27)),
        ("inception-200", "inception_v3", (200, 12, 37)),
        ("pixelcnn", "pixelcnn", (15, 1, 10)),
    ],
)
def test_the_papers_shapes(overlay: str, model: str, shape_of_paper: tuple[int, int, int]) -> None:
    objects = build(overlay)
    assert shape(objects) == shape_of_paper
    assert (settings(objects)["MODEL"], settings(objects)["RECIPE"]) == (model, "paper")


def test_the_local_one_is_small() -> None:
    assert shape(build("local")) == (2, 1, 1)


@each_overlay
def test_the_chief_understands_its_flags(overlay: str, tmp_path: Path) -> None:
    objects = build(overlay)
    (chief,) = (pod for pod in pods(objects) if pod.role == "chief")
    (tmp_path / "flags").write_text(settings(objects)["flags"], encoding="utf-8")
    words = command(chief, environment(chief, objects))
    words = [word.replace("/etc/train/flags", str(tmp_path / "flags")) for word in words]
    done = subprocess.run(
        [sys.executable, *words[1:], "--show_recipe"],
        cwd=K8S.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    stated = settings(objects)
    assert done.stdout.startswith(f"--model={stated['MODEL']} --recipe={stated['RECIPE']}\n")


def test_ways_to_run_the_chief_give_it_the_same_flags() -> None:
    flags = {
        tuple(pod.container["args"])
        for overlay in ("local", "jobset", "tfjob")
        for pod in pods(build(overlay))
        if pod.role == "chief"
    }
    assert len(flags) == 1


def test_the_data_job_prepares_where_trainings_look(tmp_path: Path) -> None:
    objects = build("../data")
    (job,), (config,) = of_kind(objects, "Job"), of_kind(objects, "ConfigMap")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    python, minus_c, program, name = [*container["command"], *container["args"]]
    assert (python, minus_c, name) == ("python", "-c", "$(DATASET)")
    assert config["data"]["DATASET"] == presets.find("pixelcnn", "paper").dataset
    program = program.replace('"/data"', repr(str(tmp_path)))
    prepared_data.write(tmp_path, "mnist", {"train": prepared_data.numbered(2)})
    for dataset, message in (("mnist", ""), ("imagenet2012", "Register at https://image-net.org")):
        done = subprocess.run(
            [sys.executable, minus_c, program, dataset],
            cwd=K8S.parent,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert message in done.stderr
        assert done.returncode == bool(message), done.stderr[-3000:]


def test_yaml_in_the_readme_is_yaml() -> None:
    readme = (K8S / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL):
        assert yaml.safe_load(block)
