"""The update log of a training run, as another process reads it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.training import update_log
from scripts.training.update_log import UpdateLog


def begun(path: Path, made: int) -> UpdateLog:
    callback = UpdateLog(str(path))
    callback.set_model(SimpleNamespace(optimizer=SimpleNamespace(iterations=made)))
    callback.on_train_begin()
    return callback


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_has_starts_and_updates_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "updates.jsonl"
    monkeypatch.setattr(update_log, "time", SimpleNamespace(monotonic=lambda: 81.25))
    callback = begun(path, 0)
    for batch in (0, 1):
        callback.on_train_batch_end(batch)
    callback.on_test_begin()
    callback.on_train_begin()  # Of the next `fit`, which is no start.
    callback.on_train_batch_end(0)
    begun(path, 2).on_train_batch_end(0)
    expected: list[dict[str, Any]] = [{"start": 0}, {"update": 1}, {"update": 2}]
    expected += [{"validation": 2}, {"update": 3}, {"start": 2}, {"update": 3}]
    assert lines(path) == [{"time": 81.25, **each} for each in expected]


def test_a_file_that_cannot_be_written_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    caplog.set_level(logging.WARNING)
    callback = begun(tmp_path / "updates.jsonl", 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        callback.on_train_batch_end(0)
    callback.on_train_batch_end(1)
    assert caplog.text.count("No space left on device. Its log ends here.") == 1
    assert len(lines(tmp_path / "updates.jsonl")) == 1


def test_a_path_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        UpdateLog(str(tmp_path / "no" / "updates.jsonl"))
