"""The installed Keras has all private names; of another one, the import says what it lacks."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import keras
import pytest

from tf_backup.keras import _private_keras, _seams

LACKS = (
    "Keras 3.99.1 has no {}, which tf_backup needs: install a version that tf_backup supports, "
    "with pip install 'keras>=3.12,<3.16'."
)


@pytest.fixture
def other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras, "__version__", "3.99.1")


def said() -> str:
    """Return what the import says."""
    with pytest.raises(ImportError) as raised:
        importlib.reload(_private_keras)
    return str(raised.value)


@pytest.mark.usefixtures("other_version")
def test_a_function_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_private_keras.seed_generator, "global_seed_generator")
    assert said() == LACKS.format("keras.src.random.seed_generator.global_seed_generator")


@pytest.mark.usefixtures("other_version")
def test_an_attribute_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, generator: Any) -> None:
            self.source = generator

    monkeypatch.setattr(_private_keras.data_adapters, "GeneratorDataAdapter", Other)
    name = "keras.src.trainers.data_adapters.GeneratorDataAdapter.generator"
    assert said() == LACKS.format(name)


@pytest.mark.usefixtures("other_version")
def test_a_module_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "keras.src.trainers.data_adapters.array_slicing"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(_private_keras.data_adapters, "array_slicing")
    assert said() == LACKS.format(name)


@pytest.mark.usefixtures("other_version")
def test_nothing_has_moved_when_keras_is_patched() -> None:
    _seams.install()
    importlib.reload(_private_keras)
