"""scripts/train.py as users run it: alone, as tasks of a job, interrupted, with wrong flags."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from scripts.training import presets
from tests.cluster.forks import Program
from tests.cluster.processes import (
    children,
    free_addresses,
    running,
    start,
    start_fresh,
    wait_until,
)
from tests.extra import extra

SCRIPT = "scripts/train.py"


def finish(process: Program | subprocess.Popen[str], timeout_s: float = 240.0) -> tuple[str, str]:
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err[-3000:]
    return out, err


def check_accounts(summary: dict[str, Any], updates: int) -> None:
    counts = summary["contributions"]
    assert summary["updates"] == updates
    assert counts["accepted"] == summary["replicas"] * updates
    assert counts["computed"] == sum(counts[name] for name in counts if name != "computed")
    for name, total in counts.items():
        assert total == sum(worker[name] for worker in summary["workers"])


def test_without_flags_it_trains_digits_well(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    logs = tmp_path / "logs"
    out, _ = finish(start_fresh(SCRIPT, f"--summary_json={path}", f"--log_dir={logs}"))
    summary = json.loads(path.read_text())
    assert (summary["strategy"], summary["replicas"], summary["backups"]) == ("ps", 3, 1)
    check_accounts(summary, updates=300)
    assert summary["validation"]["accuracy"] >= 0.97
    assert "300 updates in" in out
    assert f"accuracy {summary['validation']['accuracy']:.2%}" in out
    assert list(logs.rglob("events.out.tfevents*"))


def test_the_baseline_writes_the_same_summary(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    finish(start(SCRIPT, "--strategy=one_device", "--updates=20", f"--summary_json={path}"))
    summary = json.loads(path.read_text())
    check_accounts(summary, updates=20)
    assert set(summary["validation"]) == {"loss", "accuracy"}


def prepare_tiny_mnist(directory: Path) -> None:
    """Write 96 images of noise in the format that tensorflow-datasets keeps MNIST in."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }

    def split(examples: int) -> tf.data.Dataset:
        images = rng.integers(0, 256, [examples, 28, 28, 1]).astype(np.uint8)
        labels = rng.integers(0, 10, [examples])
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})

    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version=str(tfds.builder("mnist", data_dir=directory, try_gcs=False).version),
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": split(64), "test": split(32)},
        data_dir=directory,
        disable_shuffling=True,
    )


@extra
def test_mnist_is_read_where_tensorflow_datasets_keeps_it(tmp_path: Path) -> None:
    prepare_tiny_mnist(tmp_path / "data")
    path = tmp_path / "summary.json"
    flags = ["--dataset=mnist", f"--data_dir={tmp_path / 'data'}", "--batch_size=4", "--epochs=1"]
    flags += ["--replicas=1", "--backups=1"]
    _, err = finish(start(SCRIPT, *flags, f"--summary_json={path}"))
    check_accounts(json.loads(path.read_text()), updates=16)
    assert "failed" not in err.lower()


def test_ctrl_c_ends_it_and_its_cluster() -> None:
    process = start(SCRIPT, "--updates=100000", "--replicas=1", "--backups=1")
    assert process.stderr is not None
    while "Training" not in process.stderr.readline():
        pass
    servers = children(process.pid)
    assert len(servers) == 3
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert process.returncode != 0
    wait_until(lambda: not any(map(running, servers)), timeout_s=10)


@extra
def test_one_command_is_every_task_of_a_job(tmp_path: Path) -> None:
    addresses = free_addresses(6)
    cluster = {
        "chief": addresses[:1],
        "worker": addresses[1:4],
        "ps": addresses[4:5],
        "evaluator": addresses[5:],  # As in a TFJob; it must not hang the strategy.
    }
    path = tmp_path / "summary.json"
    flags = ["--replicas=2", "--backups=1", "--updates=30", f"--summary_json={path}"]

    def task(job: str, index: int) -> Program | subprocess.Popen[str]:
        config = {"cluster": cluster, "task": {"type": job, "index": index}}
        return start(SCRIPT, *flags, TF_CONFIG=json.dumps(config))

    chief = task("chief", 0)  # The chief first: tasks of a job start in any order.
    others = [task("worker", index) for index in range(3)] + [task("ps", 0)]
    try:
        finish(chief)
        check_accounts(json.loads(path.read_text()), updates=30)
        for process in others:  # The chief has told them that training is done.
            assert process.wait(timeout=30) == 0
    finally:
        for process in [chief, *others]:
            process.kill()
            process.communicate()


def check_refused(process: Program | subprocess.Popen[str], message: str) -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2  # Not to be retried.
    assert message in err
    assert "Traceback" not in err
    assert not children(process.pid)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--replicas=0"], "replicas is 0; it must be at least 1"),
        (["--backups=-1"], "backups is -1"),
        (["--model=resnet"], "--model is 'resnet'; the known ones are small_cnn"),
        (["--delay=3"], "is not of the form WORKER:SECONDS"),
        (["--delay=9:1"], "delay names worker 9"),
        (["--recipe=big"], "--recipe is 'big', but small_cnn has none of that name"),
        (["--replicas=100000"], "Lower --replicas"),
        (["--strategy=multi_worker_mirrored"], "--strategy=ps --backups=0"),
        (["--updates=0"], "--updates is 0"),
        (["--epochs=1", "--updates=1"], "give one"),
        (["--learning_rate=-1"], "--learning_rate is -1"),
        (["extra"], "takes flags only"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(flags: list[str], message: str) -> None:
    check_refused(start_fresh(SCRIPT, *flags), message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=cifar"], "the data set is 'cifar'; the known ones are digits"),
        (["--dataset=mnist", "--data_dir=/nowhere"], "with --download on a machine with a network"),
        (
            ["--model=draw", "--dataset=topics"],
            "draw is a model of images, but the data set topics",
        ),
        (["--model=mnist_cnn", "--dataset=digits"], "need 16 x 16 or more"),
    ],
)
def test_nonsense_that_only_the_models_and_data_know_is_refused(
    flags: list[str], message: str
) -> None:
    check_refused(start(SCRIPT, *flags), message)  # These have to import TensorFlow.


def test_a_recipe_is_shown_with_its_sources() -> None:
    out, _ = finish(start_fresh(SCRIPT, "--model=inception_v3", "--recipe=paper", "--show_recipe"))
    assert "0.045 x N, x 0.94 every 2 passes" in out
    assert "[appendix A.3" in out
    assert "N = 50, b = 3, 17 ps" in out


def test_all_recipes_are_listed() -> None:
    out, _ = finish(start_fresh(SCRIPT, "--list_recipes"))
    for name, recipes in presets.RECIPES.items():
        for model, recipe in recipes.items():
            assert f"--model={model} --recipe={name}\n" in out
            assert str(recipe.decay) in out


@pytest.mark.long
def test_told_to_end_it_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    logs, path = tmp_path / "logs", tmp_path / "summary.json"
    flags = ["--replicas=1", "--backups=1", "--updates=75", "--updates_per_epoch=15", "--ema=0.9"]
    flags += [f"--log_dir={logs}", f"--summary_json={path}"]
    # Slow enough to get the signal before the end.
    process = start(SCRIPT, *flags, "--delay=0:0.1", "--delay=1:0.1")
    wait_until(lambda: any((logs / "checkpoints").glob("0*.weights.h5")), timeout_s=120)
    servers = children(process.pid)
    assert len(servers) == 3
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err[-3000:]
    assert "Told to end. The same command goes on from here." in err
    assert "Traceback" not in err
    wait_until(lambda: not any(map(running, servers)), timeout_s=10)

    _, err = finish(start(SCRIPT, *flags))
    summary = json.loads(path.read_text())
    made = summary["updates_of_this_run"]
    assert f"Goes on after {75 - made} of 75 updates." in err
    assert 0 < made <= 60
    assert summary["updates"] == 75
    assert summary["contributions"]["accepted"] == made
    with (logs / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["updates"] for row in rows] == ["15", "30", "45", "60", "75"]
    assert float(rows[-1]["val_accuracy"]) == summary["validation"]["accuracy"]


@extra
def test_a_training_with_a_late_worker_is_evaluated_beside_it_and_after(
    tmp_path: Path,
) -> None:
    flags = [f"--log_dir={tmp_path / 'logs'}", "--poll_seconds=0.1"]
    watching = start("scripts/evaluate.py", *flags, "--watch")
    training = [f"--log_dir={tmp_path / 'logs'}", f"--summary_json={tmp_path / 'summary.json'}"]
    training += ["--updates=90", "--updates_per_epoch=30", "--replicas=1", "--backups=1"]
    try:
        finish(start(SCRIPT, *training, "--ema=0.9", "--delay=1:0.5"))
        summary = json.loads((tmp_path / "summary.json").read_text())
        check_accounts(summary, updates=90)
        assert summary["workers"][1]["accepted"] < summary["workers"][0]["accepted"]
        validation = summary["validation"]
        last = f"after 90 updates, test: accuracy {validation['accuracy']:.2%}"
        out, _ = finish(watching)
        assert last in out
    finally:
        watching.kill()
        watching.communicate()
    out, _ = finish(start("scripts/evaluate.py", *flags))
    assert out.startswith(last)
    rows = (tmp_path / "logs" / "evaluation-test.csv").read_text().splitlines()
    assert rows[0] == "updates,accuracy,loss"
    assert rows[-1] == rows[-2]
    assert rows[-1].startswith("90,")

    for flag, message in (
        ("--step=7", "no checkpoint after 7 updates; it has: 30, 60, 90"),
        (f"--log_dir={tmp_path}", "it is not the --log_dir of a training"),
    ):
        process = start("scripts/evaluate.py", *flags, flag)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert message in err
        assert "Traceback" not in err


@extra
def test_asynchronous_training_makes_an_update_of_every_gradient(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    flags = ["--strategy=ps_async", "--replicas=2", "--backups=1", "--updates=60"]
    finish(start(SCRIPT, *flags, f"--summary_json={path}"))
    summary = json.loads(path.read_text())
    assert (summary["replicas"], summary["backups"]) == (1, 2)
    check_accounts(summary, updates=60)


def test_malformed_tf_config_is_refused_in_a_sentence() -> None:
    process = start_fresh(SCRIPT, TF_CONFIG='{"cluster": {"worker": "host:1"}}')
    check_refused(process, "TF_CONFIG has no key 'task'")


def test_help_teaches() -> None:
    out, _ = start_fresh(SCRIPT, "--help").communicate(timeout=60)
    for word in ("TF_CONFIG", "--delay=3:0.5", "Examples", "--replicas: ", "--log_dir: "):
        assert word in out
