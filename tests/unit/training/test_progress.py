from __future__ import annotations

import csv
import logging
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.training import progress
from scripts.training.progress import Clock, History, Lines, described


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_history_has_a_row_for_each_epoch(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history = History(str(path), 0)
    history.on_epoch_end(0, {"loss": 0.5, "updates": 10})
    assert rows(path) == [{"epoch": "0", "loss": "0.5", "updates": "10"}]
    history.on_epoch_end(1, {"loss": 0.25, "updates": 20})
    assert [row["loss"] for row in rows(path)] == ["0.5", "0.25"]


def test_history_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    History(str(path), 0).add(0, {"loss": 0.5, "updates": 10})
    history = History(str(path), 13)
    assert history.has(10)
    assert not history.has(20)
    history.add(1, {"loss": 0.25, "updates": 20})
    assert history.has(20)
    assert [row["updates"] for row in rows(path)] == ["10", "20"]


def test_history_forgets_what_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history = History(str(path), 0)
    for epoch in range(3):
        history.add(epoch, {"updates": 10 * (epoch + 1), "loss": 1})
    History(str(path), 10).add(1, {"updates": 20, "loss": 2})
    assert [(row["updates"], row["loss"]) for row in rows(path)] == [("10", "1"), ("20", "2")]
    History(str(path), 0).add(0, {"updates": 10, "loss": 3})
    assert [(row["updates"], row["loss"]) for row in rows(path)] == [("10", "3")]


def test_history_takes_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    History(str(path), 0).add(0, {"loss": 0.5, "updates": 10})
    History(str(path), 10).add(1, {"updates": 20, "accuracy": 0.75})
    assert rows(path) == [
        {"epoch": "0", "loss": "0.5", "updates": "10", "accuracy": ""},
        {"epoch": "1", "loss": "", "updates": "20", "accuracy": "0.75"},
    ]


def test_clock_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    clock = Clock()
    clock.set_model(SimpleNamespace(optimizer=SimpleNamespace(iterations=7)))
    for begin in (100.0, 200.0):
        now = begin
        clock.on_epoch_begin(0)
        for _ in range(2):
            now += 1.5
            clock.on_train_batch_end(0)
        now += 50.0
        logs: dict[str, float] = {}
        clock.on_epoch_end(0, logs)
    assert logs == {"updates": 7, "seconds": 6.0}


def test_lines_tell_how_far_and_how_fast(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    caplog.set_level(logging.INFO, progress.__name__)
    optimizer = SimpleNamespace(iterations=100)
    lines = Lines(700, every_s=10.0)
    lines.set_model(SimpleNamespace(optimizer=optimizer))
    for seconds in (0.0, 5.0, 10.0, 15.0):
        now = seconds
        lines.on_train_batch_end(0, {"loss": 0.5})
        optimizer.iterations += 50
    assert caplog.messages == [
        "update 200 of 700, 10.00 updates/s, about 1 min left: loss 0.5000",
    ]


def test_metrics_in_words() -> None:
    logs = {"val_accuracy": 0.98765, "loss": 0.123456, "updates": 12.0}
    assert described(logs) == "val_accuracy 98.77%, loss 0.1235, updates 12"


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda text: text[:-4], ["10", "20"]),
        (lambda text: text.replace("20", "2x"), ["10"]),
        (lambda text: text.replace("updates", "upd"), []),
        (lambda text: text[:21] + "\0\0" + text[21:], []),
        (lambda text: "", []),
        (lambda text: '"' + text, []),
    ],
)
def test_a_damaged_file_is_set_aside_and_what_can_be_read_goes_on(
    tmp_path: Path, damage: Callable[[str], str], left: list[str]
) -> None:
    path = tmp_path / "history.csv"
    history = History(str(path), 0)
    for epoch in range(3):
        history.add(epoch, {"updates": 10 * epoch + 10, "loss": 0.125})
    path.write_text(damage(path.read_text()))
    damaged = path.read_bytes()
    history = History(str(path), 30)
    history.add(3, {"updates": 40, "loss": 0.125})
    with path.open(newline="") as file:
        found = [row["updates"] for row in csv.DictReader(file)]
    assert found == [*left, "40"]
    if damaged:
        assert Path(f"{path}.damaged").read_bytes() == damaged


@pytest.mark.parametrize("mask", [0xFF, None], ids=["all bits", "random bits"])
def test_flipped_bytes_are_never_a_traceback(tmp_path: Path, mask: int | None) -> None:
    path = tmp_path / "history.csv"
    first = History(str(path), 0)
    for epoch in range(40):
        first.add(epoch, {"updates": 10 * epoch + 10, "loss": 0.125, "accuracy": 0.5 + epoch / 100})
    whole = path.read_bytes()
    for seed in range(50):
        rng = random.Random(seed)
        content = bytearray(whole)
        for place in rng.sample(range(len(content)), 200 if mask else 1 + seed):
            content[place] ^= mask or rng.randrange(1, 256)
        path.write_bytes(content)
        history = History(str(path), 400)
        assert not history.has(410)
        history.add(40, {"updates": 410, "loss": 0.125})
        assert rows(path)[-1]["updates"] == "410"
        assert History(str(path), 410).has(410)  # What was written can be read.
        assert len(list(tmp_path.iterdir())) <= 2  # The file, and one that was set aside.


def test_a_file_that_cannot_be_written_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(str(tmp_path / "no" / "history.csv"), 0)
    history.add(0, {"updates": 10})
    assert "history.csv could not be written: " in caplog.text
    (tmp_path / "no").mkdir()
    history.add(1, {"updates": 20})
    assert (tmp_path / "no" / "history.csv").read_text().split() == [
        "epoch,updates",
        "0,10",
        "1,20",
    ]
