"""Curves for TensorBoard, and disks without room."""

from __future__ import annotations

import contextlib
import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.training.curves import Curves


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Let this process write no byte to any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fit(curves: Curves, epochs: int = 2, more: tuple[keras.callbacks.Callback, ...] = ()) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.ones([4, 2]), np.ones([4, 1])
    model.fit(x, y, epochs=epochs, validation_data=(x, y), callbacks=[curves, *more], verbose=0)


def written(folder: Path) -> list[int]:
    """Return the epochs in an event file's loss."""
    events = EventAccumulator(str(folder)).Reload()
    if "epoch_loss" not in events.Tags()["tensors"]:
        return []
    return [event.step for event in events.Tensors("epoch_loss")]


def test_writes_what_keras_callback_writes(tmp_path: Path) -> None:
    fit(Curves(str(tmp_path)))
    assert written(tmp_path / "train") == written(tmp_path / "validation") == [0, 1]


def test_without_room_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with no_room(), caplog.at_level(logging.WARNING):
        fit(Curves(str(tmp_path)))
    assert caplog.text.count("TensorBoard's curves could not be written: ") == 1


def test_a_full_disk_costs_points_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            if epoch == 1:
                room.enter_context(no_room())
            if epoch == 2:
                room.close()

    with contextlib.ExitStack() as room:
        fit(Curves(str(tmp_path)), epochs=3, more=(Full(),))
    assert caplog.text.count("TensorBoard's curves could not be written: ") <= 1
    found = written(tmp_path / "validation")
    assert 2 in found
