"""The callback that records who is slow: what it needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import tf_backup


def test_what_its_files_need_is_asked_for_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TensorFlow 2.21 brings no TensorBoard. Training for hours should not end for that."""
    found = importlib.util.find_spec

    def without(name: str, *args: Any) -> Any:
        return None if name == "tensorboard" else found(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ModuleNotFoundError, match=r"needs tensorboard to .*'tf_backup\[report\]'"):
        tf_backup.StragglerMonitor(tmp_path)
    tf_backup.StragglerMonitor(None)
