"""One device that stands in for the parameter servers."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import tensorflow as tf

from tf_backup._tf import runtime, threads
from tf_backup._tf.named import Name

threads.allow_operations_at_once()  # A server needs it, and so does what stands in for one.


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> Name:
    """Let this process's CPU stand in for every server; return a name for resources there."""
    device = tf.device

    def here(name: Any) -> Any:
        on_server = isinstance(name, str) and runtime.is_on_ps(name)
        return device("CPU:0" if on_server else name)

    monkeypatch.setattr(tf, "device", here)
    monkeypatch.setattr(runtime, "ps_index", lambda device: 0)
    return Name(f"test.{uuid.uuid4().hex}", "test")
