"""The trace of a recorded training, for ui.perfetto.dev."""

from __future__ import annotations

import json
import pathlib

import pytest

from scripts.reports import trace_events
from scripts.reports.recording import Recording
from tests.unit.recorded_training import trained
from tf_backup.timeline.schema import UNKNOWN, Timeline


def training() -> Timeline:
    """Return 60 updates of N = 3 and b = 1, in two runs; worker 3 is slow."""
    took = (1.0, 1.1, 1.2, 2.0)
    return trained(lambda worker, n: took[worker], 3, 1, updates=60, update_s=0.05, runs=2)


def test_the_trace_has_every_gradient_with_its_duration(tmp_path: pathlib.Path) -> None:
    recording = Recording(training())
    path = tmp_path / "trace.json"
    assert trace_events.write(path, recording) == 60
    events = json.loads(path.read_text("utf-8"))["traceEvents"]
    gradients = [each for each in events if each.get("cat") == "gradient"]
    rows = recording.contributions
    assert sorted((each["tid"] - 1, each["ts"], each["dur"]) for each in gradients) == sorted(
        zip(
            rows["worker"].tolist(),
            (rows["began"] - recording.origin_us).tolist(),
            (rows["arrived"] - rows["began"]).tolist(),
            strict=True,
        )
    )
    updates = [each for each in events if each.get("cat") == "update"]
    assert [each["dur"] for each in updates] == [50_000] * 60
    tracks = {each["args"]["name"] for each in events if each["name"] == "thread_name"}
    assert tracks == {"updates", "worker 0", "worker 1", "worker 2", "worker 3"}


def test_the_trace_of_several_servers_has_updates_from_their_last_gradient(
    tmp_path: pathlib.Path,
) -> None:
    timeline = training()
    for unknown in ("started", "taken", "applied"):
        timeline.updates[unknown] = UNKNOWN
    path = tmp_path / "trace.json"
    trace_events.write(path, Recording(timeline))
    events = json.loads(path.read_text("utf-8"))["traceEvents"]
    updates = [each for each in events if each.get("cat") == "update"]
    assert [each["dur"] for each in updates] == pytest.approx([50_000] * 60, abs=2)
    assert all(each["ts"] > 0 for each in updates)


def test_a_trace_may_have_the_last_updates_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.json"
    assert trace_events.write(path, Recording(training()), updates=10) == 10
    events = json.loads(path.read_text("utf-8"))["traceEvents"]
    steps = [each["args"]["step"] for each in events if each.get("cat") == "update"]
    assert steps == list(range(50, 60))
