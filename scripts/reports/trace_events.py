"""The timeline in the format of Chrome's traces, which Perfetto and chrome://tracing show.

Reference: "Trace Event Format". Complete events (`X`) have a start and a duration in microseconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from scripts.reports.drawing import LOOKS
from scripts.reports.recording import Recording
from tf_backup.timeline.schema import UNKNOWN, VERDICTS

_PROCESS = 1
_UPDATES_TRACK = 0  # Worker w has track w + 1.
# Names of the viewers' own colors, by verdict.
_COLORS = ("good", "bad", "terrible", "grey", "yellow", "black")


def write(path: str | os.PathLike[str], recording: Recording, updates: int | None = None) -> int:
    """Write a trace, with a track for each worker and one for the updates.

    Args:
      path: file name.
      recording: the training.
      updates: number of updates, counted from the end; None for all.

    Returns:
      The number of updates written.
    """
    first = 0 if updates is None else max(0, len(recording.updates) - updates)
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        separator = ""
        for event in _events(recording, first):
            file.write(separator + json.dumps(event))
            separator = ",\n"
        file.write("\n]}\n")
    return len(recording.updates) - first


def _events(recording: Recording, first: int) -> Iterator[dict[str, Any]]:
    yield _named("process_name", _UPDATES_TRACK, name=recording.settings.model or "training")
    yield _named("thread_name", _UPDATES_TRACK, name="updates")
    for worker in recording.workers.tolist():
        yield _named("thread_name", worker + 1, name=f"worker {worker}")
        yield _named("thread_sort_index", worker + 1, sort_index=worker + 1)
    yield from _updates(recording, first)
    yield from _gradients(recording, first)


def _named(kind: str, track: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": _PROCESS, "tid": track, "args": args}


def _updates(recording: Recording, first: int) -> Iterator[dict[str, Any]]:
    rows = recording.updates[first:]
    # With several parameter servers, it is not known when the chief's loop began.
    took_us = np.nan_to_num(recording.update_seconds[first:] * 1e6).astype(np.int64)
    started = np.where(rows["started"] == UNKNOWN, rows["released"] - took_us, rows["started"])
    begins = np.minimum(started, rows["released"])
    for row, begin in zip(rows, begins.tolist(), strict=True):
        yield {
            "ph": "X",
            "name": f"update {int(row['step']) + 1}",
            "cat": "update",
            "pid": _PROCESS,
            "tid": _UPDATES_TRACK,
            "ts": begin - recording.origin_us,
            "dur": int(row["released"]) - begin,
            "args": {"step": int(row["step"]), "run": int(row["run"])},
        }


def _gradients(recording: Recording, first: int) -> Iterator[dict[str, Any]]:
    rows = recording.contributions
    begin = 0 if first == 0 else int(recording.updates["released"][first - 1])
    chosen = np.flatnonzero(rows["arrived"] >= begin)
    chosen = chosen[np.argsort(rows["began"][chosen], kind="stable")]
    columns = ("verdict", "worker", "began", "arrived", "step", "update", "run", "compute")
    for verdict, worker, began, arrived, step, update, run, compute in zip(
        *(rows[name][chosen].tolist() for name in columns), strict=True
    ):
        args = {"verdict": VERDICTS[verdict], "step": step, "update": update, "run": run}
        args["compute_us"] = compute
        yield {
            "ph": "X",
            "name": LOOKS[verdict].name,
            "cat": "gradient",
            "pid": _PROCESS,
            "tid": worker + 1,
            "ts": began - recording.origin_us,
            "dur": max(0, arrived - began),
            "cname": _COLORS[verdict],
            "args": {name: value for name, value in args.items() if value != UNKNOWN},
        }
