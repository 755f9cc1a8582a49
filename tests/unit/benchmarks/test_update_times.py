"""Where the time of an update goes, from rows with known times."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.benchmarks import update_times
from scripts.benchmarks.update_times import UpdateTimes
from tf_backup.timeline.schema import (
    ACCEPTED,
    CONTRIBUTION,
    LATE,
    LOST,
    UNKNOWN,
    UPDATE,
    Settings,
    Timeline,
)

# (run, step, started, taken, applied, released), in us
UPDATES = [(0, 0, 1000, 1200, 1500, 1900), (0, 1, 5000, 5200, 5600, 6000)]

# (run, step, update, worker, place, verdict, began, arrived, compute), in us
CONTRIBUTIONS = [
    (0, 0, 0, 0, 0, ACCEPTED, 0, 900, 500),
    (0, 1, 1, 0, 0, ACCEPTED, 2000, 4000, 1500),
    (0, 1, 1, 1, 1, ACCEPTED, 2300, 4900, 1500),
    (0, 1, UNKNOWN, 2, 2, LATE, 2500, 5100, 1500),
    (0, 1, UNKNOWN, 3, 3, LOST, 2500, 9000, UNKNOWN),
]


def timeline(updates: list[tuple[int, ...]]) -> Timeline:
    settings = Settings(replicas=2, backups=2)
    return Timeline(settings, np.array(CONTRIBUTIONS, CONTRIBUTION), np.array(updates, UPDATE))


def test_parts_are_medians_of_what_began_late_enough() -> None:
    assert update_times.of(timeline(UPDATES), begin_us=2000) == UpdateTimes(
        token_ms=None,  # The release before them was too early to count.
        compute_ms=1.5,
        put_ms=1.1,  # Of 0.5, 1.1 and 1.1; nothing is known of what was lost.
        gate_ms=0.45,  # Of 0.9 and 0.
        start_ms=0.1,
        take_ms=0.2,
        update_ms=0.4,
        publish_ms=0.4,
    )


def test_a_token_waits_from_the_release_of_its_parameters() -> None:
    found = update_times.of(timeline(UPDATES), begin_us=0)
    assert found.token_ms == pytest.approx(0.4)  # Of 0.1, 0.4 and 0.6, since 1900 us.
    assert (found.take_ms, found.update_ms) == (pytest.approx(0.2), pytest.approx(0.35))


def test_several_servers_do_not_tell_take_from_update() -> None:
    several = [(*row[:2], UNKNOWN, UNKNOWN, UNKNOWN, row[5]) for row in UPDATES]
    found = update_times.of(timeline(several), begin_us=500)
    assert (found.start_ms, found.take_ms, found.update_ms) == (None, None, None)
    assert found.token_ms == pytest.approx(0.4)
    assert found.publish_ms == pytest.approx(1.1)  # From the last arrival that began since then.


def test_nothing_is_known_of_no_updates() -> None:
    assert update_times.of(timeline(UPDATES), begin_us=10_000) == UpdateTimes()
