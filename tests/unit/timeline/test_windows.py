"""Summaries of stretches of a timeline, computed by hand."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tf_backup.timeline.scalars import Scalars
from tf_backup.timeline.schema import (
    ACCEPTED,
    CONTRIBUTION,
    LATE,
    LOST,
    STALE,
    UNKNOWN,
    UPDATE,
    Settings,
    Timeline,
)
from tf_backup.timeline.windows import Windows

SETTINGS = Settings(2, 1, batch_size=8)
S = 1_000_000


def contributions(*rows: tuple[int, int, int, float, float]) -> np.ndarray:
    """Return rows of (step, worker, verdict, began, arrived), in seconds."""
    made = []
    for step, worker, verdict, began, arrived in rows:
        update = step if verdict == ACCEPTED else UNKNOWN
        times = (round(began * S), round(arrived * S), 0)
        made.append((1, step, update, worker, worker, verdict, *times))
    return np.array(made, CONTRIBUTION)


def updates(*rows: tuple[int, float]) -> np.ndarray:
    """Return rows of (step, released), in seconds."""
    made = np.zeros(len(rows), UPDATE)
    made["run"] = 1
    made["step"] = [step for step, _ in rows]
    made["released"] = [round(released * S) for _, released in rows]
    return made


FIRST = contributions(
    (0, 0, ACCEPTED, 10, 11), (0, 1, ACCEPTED, 10, 12), (1, 0, ACCEPTED, 13, 14),
    (1, 1, ACCEPTED, 13, 15), (0, 2, STALE, 10, 15.5),
)  # fmt: skip
SECOND = contributions(
    (2, 0, ACCEPTED, 16, 17), (2, 1, ACCEPTED, 16, 19), (2, 2, LATE, 16, 19.5),
    (-1, 2, LOST, 20, 30),
)  # fmt: skip


def test_updates_whose_gradients_are_missing_make_a_window(tmp_path: pathlib.Path) -> None:
    """The rows of their gradients may have been dropped."""
    window = Windows(SETTINGS).next(contributions(), updates((0, 13), (1, 16)))
    assert window is not None
    assert (window.updates, window.late, window.slowest) == (1, 0.0, None)
    assert math.isnan(window.nth_s)
    assert math.isnan(window.samples_per_s)
    scalars = Scalars(tmp_path)
    scalars.write(window)
    scalars.close()


def test_windows_follow_each_other() -> None:
    windows = Windows(SETTINGS)
    first = windows.next(FIRST, updates((0, 13), (1, 16)))
    assert first is not None
    # The beginning of step 0 is unknown: one update took from 13 s to 16 s.
    assert (first.step, first.updates, first.seconds) == (2, 1, 3.0)
    assert (first.first_s, first.nth_s, first.last_s) == (1.0, 2.0, 2.0)
    assert first.verdicts == {
        "accepted": 4, "late": 0, "stale": 1, "duplicate": 0, "nonfinite": 0, "lost": 0
    }  # fmt: skip
    assert first.wasted == pytest.approx(0.2)
    assert first.worker_s == {0: 1.0, 1: 2.0, 2: 5.5}
    assert first.slowest == 2
    second = windows.next(SECOND, updates((2, 20)))
    assert second is not None
    assert (second.step, second.updates, second.seconds) == (3, 1, 4.0)
    assert second.updates_per_s == 0.25
    assert (second.first_s, second.nth_s, second.last_s) == (1.0, 3.0, 3.5)
    assert second.worker_s == {0: 1.0, 1: 3.0, 2: 3.5}  # Without the lost one.
    assert second.wasted == 0.5
    assert windows.next(SECOND[:0], updates()) is None


def test_the_first_update_alone_has_no_speed() -> None:
    window = Windows(SETTINGS).next(FIRST[:2], updates((0, 13)))
    assert window is not None
    assert window.updates == 0
    assert math.isnan(window.updates_per_s)
    assert math.isnan(window.nth_s)


def test_n_is_that_of_each_update() -> None:
    """With N up to 3, updates 0 and 1 were made of two gradients each, update 2 of one."""
    windows = Windows(Settings(3, 0, batch_size=8))
    first = windows.next(FIRST, updates((0, 13), (1, 16)))
    assert first is not None
    assert (first.first_s, first.nth_s, first.last_s) == (1.0, 2.0, 2.0)
    assert (first.replicas, first.samples_per_s) == (2.0, pytest.approx(8 * 2 / 3))
    later = contributions((2, 0, ACCEPTED, 16, 17), (2, 1, LATE, 16, 19), (1, 2, STALE, 16, 19))
    second = windows.next(later, updates((2, 20)))
    assert second is not None
    assert (second.first_s, second.nth_s, second.last_s) == (1.0, 1.0, 3.0)
    assert (second.replicas, second.samples_per_s) == (1.0, 2.0)


def test_scalars_are_what_tensorboard_reads(tmp_path: pathlib.Path) -> None:
    windows, scalars = Windows(SETTINGS), Scalars(tmp_path)
    for rows, made in ((FIRST, updates((0, 13), (1, 16))), (SECOND, updates((2, 20)))):
        window = windows.next(rows, made)
        assert window is not None
        scalars.write(window)
    scalars.close()
    board = EventAccumulator(str(tmp_path)).Reload()
    tags = {tag: board.Tensors(tag) for tag in board.Tags()["tensors"]}

    def values(tag: str) -> list[tuple[int, float]]:
        return [(e.step, e.tensor_proto.float_val[0]) for e in tags[tag]]

    assert values("speed/updates_per_second") == [(2, pytest.approx(1 / 3)), (3, 0.25)]
    assert values("speed/samples_per_second") == [(2, pytest.approx(16 / 3)), (3, 4.0)]
    assert values("arrival/nth_seconds") == [(2, 2.0), (3, 3.0)]
    assert values("gradients/wasted_percent") == [(2, pytest.approx(20)), (3, 50)]
    assert values("gradients/lost") == [(2, 0.0), (3, 1.0)]
    assert values("worker_seconds/2") == [(2, 5.5), (3, 3.5)]
    assert len(tags["arrival/seconds"]) == 2


def test_time_of_updates_and_staleness() -> None:
    timeline = Timeline(
        SETTINGS, np.concatenate([FIRST, SECOND]), updates((0, 13), (1, 16), (2, 20))
    )
    # From the last of its gradients to its release.
    assert timeline.update_seconds.tolist() == [1.0, 1.0, 1.0]
    assert timeline.staleness.tolist() == [0] * 6
    assert timeline.counts() == {
        "computed": 9, "accepted": 6, "late": 1, "stale": 1, "duplicate": 0, "nonfinite": 0,
        "lost": 1,
    }  # fmt: skip
