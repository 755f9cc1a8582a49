"""The Dockerfile: what it says, and, where a builder and a base image are, what it makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.manifests import build, pods
from tests.project.test_layout import pins

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

# A build takes minutes and gigabytes: it is asked for, and is not part of every run.
BASE = "TF_BACKUP_TEST_BASE"


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(f"{name} ")]


def test_the_base_is_slim_and_of_one_version() -> None:
    (base,) = (line.removeprefix("BASE=") for line in instructions("ARG") if "BASE=" in line)
    version = re.fullmatch(r"docker\.io/library/python:3\.(\d+)\.\d+-slim-\w+", base)
    assert version
    assert 10 <= int(version[1]) <= 12  # What the lock file is for.
    assert [line.split()[0] for line in instructions("FROM")] == ["${BASE}", "${BASE}"]


def test_packages_are_those_of_the_lock_file() -> None:
    (run,) = instructions("RUN")
    assert "-c requirements.lock" in run
    assert len(re.findall(r"(?<!un)install ", run)) == 1  # All calls of pip have the lock.


def test_the_user_is_the_manifests() -> None:
    (user,) = instructions("USER")
    for pod in pods(build("local")):
        security = pod.template["spec"]["securityContext"]
        assert user == f"{security['runAsUser']}:{security['runAsGroup']}"


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    copied = {
        source.split("/")[0]
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    sent = {line[1:] for line in IGNORED if line.startswith("!")}
    assert IGNORED[1] == "*"
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)


def test_the_manifests_command_is_in_the_image() -> None:
    (folder,) = instructions("WORKDIR")[1:]
    assert folder == "/app"
    for pod in pods(build("local")):
        assert (ROOT / pod.container["command"][1]).is_file()


# ---- Built ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image() -> Iterator[list[str]]:
    """Builds the image; returns a command that runs what follows it as the image's user."""
    base = os.environ.get(BASE)
    if shutil.which("buildah") is None or base is None:
        pytest.skip(f"The image is built where buildah is and {BASE} names an image to start from.")
    tag = "localhost/tf-backup:test"
    done = subprocess.run(
        ["buildah", "build", "--layers", f"--build-arg=BASE={base}", f"--tag={tag}", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    container = subprocess.run(
        ["buildah", "from", tag], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield ["buildah", "run", container, "--"]
    subprocess.run(["buildah", "rm", container], check=True)
    subprocess.run(["buildah", "rmi", tag], check=True)


def run(image: list[str], *command: str) -> str:
    done = subprocess.run([*image, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(1800)
def test_the_image_trains(image: list[str]) -> None:
    flags = ["--strategy=one_device", "--updates=20", "--metrics_port=0", "--log_dir=/tmp/logs"]
    assert "20 updates in" in run(image, "python", "scripts/train.py", *flags)
    assert run(image, "id", "-u").strip() == "1000"
    run(image, "tensorboard", "--version")


@pytest.mark.timeout(1800)
def test_the_image_has_the_locks_versions(image: list[str]) -> None:
    version = run(image, "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    pinned = pins("requirements.lock", version.strip())
    lines = run(image, "python", "-m", "pip", "list", "--format=freeze").splitlines()
    installed = dict(line.split("==") for line in lines)
    assert {"tensorflow", "keras", "prometheus_client"} <= installed.keys()
    for name, number in installed.items():
        if name != "pip":
            assert pinned[canonicalize_name(name)] == number
    assert not {"pytest", "mypy", "ruff"} & installed.keys()
