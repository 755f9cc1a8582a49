"""tf_backup/_tf/runtime.py: what it changes in this process, and restores."""

from __future__ import annotations

import os

import pytest

from tf_backup._tf import runtime

STREAMING = "TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"


@pytest.mark.parametrize("before", ["False", None])
def test_calls_are_streamed_until_the_last_thread_has_traced(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(STREAMING, raising=False)
    else:
        monkeypatch.setenv(STREAMING, before)
    one, other = runtime.tracing(servers=0), runtime.tracing(servers=0)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert os.environ[STREAMING] == "True"
    other.__exit__(None, None, None)
    assert os.environ.get(STREAMING) == before
