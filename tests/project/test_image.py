"""The Dockerfile: its text, and, if a builder and a base image are available, its image."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.manifests import build, pods
from tests.project.test_layout import pins

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

# Names a base image, for machines that cannot get the Dockerfile's.
BASE = "TF_BACKUP_TEST_BASE"


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(f"{name} ")]


def test_the_base_is_slim_and_of_one_version() -> None:
    (base,) = (line.removeprefix("BASE=") for line in instructions("ARG") if "BASE=" in line)
    version = re.fullmatch(r"docker\.io/library/python:3\.(\d+)\.\d+-slim-\w+", base)
    assert version
    assert 10 <= int(version[1]) <= 12  # Versions in the lock file.
    assert [line.split()[0] for line in instructions("FROM")] == ["${BASE}", "${BASE}"]


def test_packages_are_those_of_the_lock_file() -> None:
    (run,) = instructions("RUN")
    assert "-c requirements.lock" in run
    assert len(re.findall(r"(?<!un)install ", run)) == 1  # Every call of pip has the lock file.


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

TEST_IMAGE = "localhost/tf-backup:test"
TEST_BASE = "localhost/tf-backup-base:test"
TRIAL = "localhost/tf-backup-trial:test"
# Files that a base image made here needs to get packages, if this machine has them.
TRUST = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")


@dataclasses.dataclass(frozen=True)
class Builder:
    """podman or buildah, with the environment that it needs here."""

    program: str
    environment: dict[str, str]

    def call(self, *words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *words],
            env=os.environ | self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=1200,
        )

    def build(self, tag: str, *words: str | Path) -> None:
        done = self.call("build", "--layers=false", f"--tag={tag}", *words)
        assert done.returncode == 0, done.stderr[-3000:]

    def run(self, image: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in an image, as the image's user."""
        text = f"FROM {image}\nRUN {command}\n"
        empty = ROOT / "tests" / "project"  # A build wants a directory, but uses nothing in it.
        done = self.call("build", "--no-cache", f"--tag={TRIAL}", "--file=-", empty, stdin=text)
        if done.returncode == 0:
            self.call("rmi", TRIAL)
        return done


def make_base(builder: Builder, directory: Path) -> None:
    """Make an image of Debian with its Python, without a registry."""
    packages = "ca-certificates,python3-venv,python-is-python3"
    debian = directory / "debian"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", debian],
        check=True,
        capture_output=True,
        timeout=600,
    )
    for path in filter(os.path.exists, TRUST):
        shutil.copy(path, debian / path.removeprefix("/"))
    archive = directory / "debian.tar"
    subprocess.run(["tar", "--exclude=./dev/*", "-cf", archive, "-C", debian, "."], check=True)
    (directory / "Dockerfile").write_text("FROM scratch\nADD debian.tar /\n")
    (directory / ".dockerignore").write_text("debian\n")
    builder.build(TEST_BASE, directory)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Builder, str]]:
    """Yield a builder and a base image: one that is named, the Dockerfile's, or our own."""
    programs = [name for name in ("podman", "buildah") if shutil.which(name)]
    if not programs:
        pytest.skip("No image is built: neither podman nor buildah is here.")
    builder = Builder(programs[0], {})
    (image,) = (line.removeprefix("BASE=") for line in instructions("ARG") if "BASE=" in line)
    if named := os.environ.get(BASE):
        image = named
    elif builder.call("pull", "--quiet", image).returncode != 0:
        if shutil.which("debootstrap") is None or os.geteuid() != 0:
            pytest.skip(f"No image is built: {image} is out of reach, and {BASE} names no other.")
        image = TEST_BASE
        try:
            make_base(builder, tmp_path_factory.mktemp("base"))
        except subprocess.CalledProcessError:
            pytest.skip(f"No image is built: neither {image} nor Debian's packages are in reach.")
    # In a container, only chroot isolation may be allowed.
    builders = [Builder(programs[0], each) for each in ({}, {"BUILDAH_ISOLATION": "chroot"})]
    able = [each for each in builders if each.run(image, "true").returncode == 0]
    try:
        if not able:
            pytest.skip(f"No image is built: {programs[0]} cannot run anything here.")
        yield able[0], image
    finally:
        builder.call("rmi", TEST_BASE)


@pytest.fixture(scope="module")
def run(base: tuple[Builder, str]) -> Iterator[Callable[[str], str]]:
    """Build the image; yield a function that returns the output of a command in it."""
    builder, image = base

    def run_in_image(command: str) -> str:
        done = builder.run(TEST_IMAGE, command)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    try:
        builder.build(TEST_IMAGE, f"--build-arg=BASE={image}", ROOT)
        yield run_in_image
    finally:
        builder.call("rmi", TEST_IMAGE)


@pytest.mark.timeout(1800)
def test_the_image_trains(run: Callable[[str], str]) -> None:
    flags = "--strategy=one_device --updates=20 --metrics_port=0 --log_dir=/tmp/logs"
    assert "20 updates in" in run(f"python scripts/train.py {flags}")
    assert "uid is 1000" in run("echo uid is $(id -u)")
    assert run("tensorboard --version")


@pytest.mark.timeout(1800)
def test_the_image_has_the_locks_versions(run: Callable[[str], str]) -> None:
    found = re.search(r"Python (3\.\d+)", run("python --version"))
    assert found
    pinned = pins("requirements.lock", found[1])
    lines = run("python -m pip list --format=freeze").splitlines()
    installed = dict(line.split("==") for line in lines if re.fullmatch(r"[\w.-]+==\S+", line))
    assert {"tensorflow", "keras", "prometheus_client"} <= installed.keys()
    for name, number in installed.items():
        if name != "pip":
            assert pinned[canonicalize_name(name)] == number
    assert not {"pytest", "mypy", "ruff"} & installed.keys()
