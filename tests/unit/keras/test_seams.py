"""Installation of the hooks into Keras."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest

from tests.unit.waiting_calls import in_thread, waits
from tf_backup.keras import _seams

TRAINER = _seams._private_keras.trainer.TensorFlowTrainer
METHODS = [
    (_seams._private_keras.trainer, "TFEpochIterator"),
    (keras.optimizers.Optimizer, "add_variable_from_reference"),
    *[(TRAINER, name) for name in ("fit", "evaluate", "predict", "_maybe_symbolic_build")],
    *[(TRAINER, name) for name in ("make_train_function", "make_test_function")],
    *[(TRAINER, name) for name in ("get_compile_config", "compile_from_config")],
]


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let `install` patch Keras until the test ends; return the methods that it finds."""
    monkeypatch.setattr(_seams, "_installed", False)
    found = [getattr(owner, name) for owner, name in METHODS]
    for (owner, name), method in zip(METHODS, found, strict=True):
        monkeypatch.setattr(owner, name, method)
    return found


def test_each_method_is_replaced_once(uninstalled: list[Any]) -> None:
    for _ in range(2):
        _seams.install()
        methods = [getattr(owner, name) for owner, name in METHODS]
        assert [method.__wrapped__ for method in methods] == uninstalled


def test_two_threads_install_once(uninstalled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    del uninstalled
    patch, begun, go = _seams._patch, threading.Event(), threading.Event()
    calls = []

    def slowly(hooks: Any) -> None:
        calls.append(hooks)
        begun.set()
        assert go.wait(60)
        patch(hooks)

    monkeypatch.setattr(_seams, "_patch", slowly)
    first = in_thread(_seams.install)
    assert begun.wait(60)
    second = in_thread(_seams.install)
    assert waits(second)  # Keras is not patched yet.
    go.set()
    for each in (first, second):
        each.result(timeout=60)
    assert len(calls) == 1


@pytest.mark.usefixtures("uninstalled")
def test_what_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = _seams._patch
    calls = []

    def failing(hooks: Any) -> None:
        calls.append(hooks)
        if len(calls) == 1:
            raise KeyboardInterrupt
        patch(hooks)

    monkeypatch.setattr(_seams, "_patch", failing)
    with pytest.raises(KeyboardInterrupt):
        _seams.install()
    _seams.install()
    assert len(calls) == 2


@pytest.mark.usefixtures("uninstalled")
def test_a_model_on_one_device_is_trained_by_keras() -> None:
    def losses() -> list[float]:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        x = np.ones([4, 2], np.float32)
        found = model.fit(x, x[:, 0], epochs=2, verbose=0).history["loss"]
        return [*found, model.evaluate(x, x[:, 0], verbose=0), *model.predict(x, verbose=0)[0]]

    before = losses()
    _seams.install()
    assert losses() == before
