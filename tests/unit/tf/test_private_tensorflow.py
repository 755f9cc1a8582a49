"""The installed TensorFlow has all private names; of another one, the import says what it lacks."""

from __future__ import annotations

import importlib
import sys

import pytest
import tensorflow as tf

from tf_backup._tf import private_tensorflow

LACKS = (
    "TensorFlow 2.99.1 has no {}, which tf_backup needs: install a version that tf_backup "
    "supports, with pip install 'tensorflow>=2.20,<2.22'."
)


@pytest.fixture
def other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf, "__version__", "2.99.1")


def said() -> str:
    """Return what the import says."""
    with pytest.raises(ImportError) as raised:
        importlib.reload(private_tensorflow)
    return str(raised.value)


@pytest.mark.usefixtures("other_version")
def test_a_function_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(private_tensorflow.context, "anonymous_name")
    assert said() == LACKS.format("tensorflow.python.eager.context.anonymous_name")


@pytest.mark.usefixtures("other_version")
def test_a_raw_operation_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tf.raw_ops, "MutexLock")
    assert said() == LACKS.format("tensorflow.raw_ops.MutexLock")


@pytest.mark.usefixtures("other_version")
def test_a_module_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "tensorflow.python.data.util.structure"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(sys.modules["tensorflow.python.data.util"], "structure")
    assert said() == LACKS.format(name)


@pytest.mark.usefixtures("other_version")
def test_nothing_has_moved() -> None:
    importlib.reload(private_tensorflow)
