"""Pods of the manifests, as local processes: training, restarts and bad input."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from scripts import exits
from tests.cluster.job import Job
from tests.cluster.processes import wait_until

pytestmark = pytest.mark.long

# By default, a silent task is waited for for half a minute.
SOON = "--worker_timeout_s=8\n--server_timeout_s=10\n"
# So slow that those who wait for something have the processor.
SLOWLY = "".join(f"--delay={worker}:0.1\n" for worker in range(3))
ENDLESS = f"--updates=100000\n--checkpoint_minutes=0.05\n{SLOWLY}{SOON}"
ALL = ("worker-0", "worker-1", "backup-0", "ps-0")


def checkpoints(job: Job) -> list[int]:
    """Return the numbers of updates that have a checkpoint."""
    directory = job.volumes / "logs" / "train" / "checkpoints"
    return sorted(int(path.name[:9]) for path in directory.glob("[0-9]*.weights.h5"))


def finish(job: Job, made: int) -> None:
    """Start the chief again, and let it make a few more updates, to the end."""
    job.write_flags(f"--updates={made + 30}\n{SOON}")
    job.start("chief")
    assert job.code("chief") == 0, job.log("chief")[-3000:]
    log = job.log("chief").rpartition("Connecting to")[2]
    assert f"Goes on after {made} of {made + 30} updates." in log
    assert "30 updates in" in log
    assert checkpoints(job)[-1] == made + 30
    assert "Traceback" not in log
    assert "But not" not in log
    for task in ALL:  # Nothing is left running.
        assert job.code(task) == 0, job.log(task)[-3000:]


def test_worst_order_and_the_loss_of_a_ps(tmp_path: Path) -> None:
    with Job("local", tmp_path, ENDLESS) as job:
        job.start("chief")
        job.await_log("chief", "Connecting to 1 parameter servers")
        *workers, ps = ALL
        job.start(*workers)
        for task in workers:
            job.await_log(task, "serves at")
        assert "Training" not in job.log("chief")
        job.start(ps)
        wait_until(lambda: checkpoints(job))
        job.kill("worker-1")
        job.await_log("chief", "Lost worker 1")
        job.kill("ps-0")
        assert job.code("chief") == exits.LOST
        last = checkpoints(job)[-1]
        assert job.log("chief").splitlines()[-1].startswith("train.py: Parameter server 0")
        for task in sorted({*workers} - {"worker-1"}):
            assert job.kill(task, signal.SIGTERM) == exits.TERMINATED
        job.start(*ALL)  # As their Jobs do; the chief's Job starts another chief.
        finish(job, last)
        job.start(*ALL, "chief")  # As if the chief had ended before it dismissed the others.
        for task in (*ALL, "chief"):
            assert job.code(task) == 0, job.log(task)[-3000:]
        assert f"All {last + 30} updates have been made." in job.log("chief")


def test_a_worker_is_lost_and_comes_back_and_the_chief_is_evicted(tmp_path: Path) -> None:
    with Job("jobset", tmp_path, ENDLESS) as job:
        job.start(*ALL, "chief")
        job.await_log("chief", "Training")
        wait_until(lambda: job.metrics()["tf_backup_updates_total"] > 0)
        job.kill("worker-1")
        job.await_log("chief", "Lost worker 1")
        assert job.metrics()["tf_backup_living_workers"] == 2
        job.start("worker-1")
        job.await_log("chief", "is back")
        assert job.metrics()["tf_backup_living_workers"] == 3
        name = 'tf_backup_contributions_total{verdict="accepted",worker="1"}'
        before = job.metrics()[name]
        wait_until(lambda: job.metrics()[name] > before)
        assert job.kill("chief", signal.SIGTERM) == exits.TERMINATED
        assert "Told to end. The same command goes on from here." in job.log("chief")
        finish(job, checkpoints(job)[-1])


def test_a_chief_that_waits_hears_sigterm(tmp_path: Path) -> None:
    with Job("local", tmp_path, ENDLESS) as job:
        job.start("chief")
        job.await_log("chief", "Connecting")
        assert job.kill("chief", signal.SIGTERM) == exits.TERMINATED


TF_CONFIG = {
    "cluster": {
        "chief": ["train-chief-0.train:2222"],
        "worker": ["train-worker-0.train:2222", "train-worker-1.train:2222"],
        "ps": ["train-ps-0.train:2222"],
    },
    "task": {"type": "chief", "index": 0},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"TF_CONFIG": json.dumps(TF_CONFIG)},
            "replicas (2) + backups (1) is more than the 2 worker",
        ),
        (
            {"TF_CONFIG": json.dumps({**TF_CONFIG, "task": {"type": "chief", "index": 1}})},
            "TF_CONFIG's task index is 1, but the cluster's 'chief' tasks are 0 to 0",
        ),
        ({"TF_BACKUP_PS": "none"}, "TF_BACKUP_PS is 'none'; it must be an int of at least 1"),
        ({"TF_BACKUP_REPLICAS": "two"}, "flag --replicas=two"),
    ],
)
def test_bad_input_ends_the_job(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with Job("local", tmp_path, "") as job:
        job.start("chief", **changes)
        assert job.code("chief") == exits.WRONG
        check_line(job, message)


def test_a_volume_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("A file where the volume should be.")
    with Job("local", tmp_path, "") as job:
        job.start("chief")
        assert job.code("chief") == exits.WRONG
        check_line(job, f"Not a directory: '{tmp_path}/logs/train'")


def test_an_image_without_a_package(tmp_path: Path) -> None:
    with Job("local", tmp_path, "", missing="sklearn") as job:
        job.start("chief")
        assert job.code("chief") == exits.WRONG
        check_line(job, "'sklearn' is not a package, which the model, its data or a flag needs")


def check_line(job: Job, message: str) -> None:
    """Check that the chief's output is one line with a message."""
    (line,) = job.log("chief").splitlines()
    assert message in line
