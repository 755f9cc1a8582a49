"""N of each update, counted from the gradients that it used."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.unit.timelines import one_after_the_other, timeline
from tf_backup.policy import BackupPolicy
from tf_backup.timeline.schema import ACCEPTED, Timeline
from tf_backup.timeline.update_sizes import UpdateSizes


def with_n(*lengths: tuple[int, int]) -> Timeline:
    """Return the timeline of a training by four workers, for pairs of N and a number of updates."""
    return one_after_the_other(
        *(timeline([1.0] * 4, BackupPolicy(n, 4 - n), updates) for n, updates in lengths)
    )


def test_n_may_be_other_than_the_settings_say() -> None:
    sizes = UpdateSizes.of(with_n((4, 2), (3, 98)))
    assert sizes.each.tolist() == [4] * 2 + [3] * 98
    assert (sizes.usual, sizes.fixed, str(sizes)) == (3, True, "3")


def test_n_that_changes_is_not_fixed() -> None:
    sizes = UpdateSizes.of(with_n((4, 10), (3, 30), (2, 10)))
    assert (sizes.usual, sizes.fixed, str(sizes), sizes.mean) == (3, False, "2 to 4", 3.0)
    first = sizes[np.arange(10)]
    assert (first.usual, first.fixed, str(first)) == (4, True, "4")


def test_updates_whose_rows_are_missing_count_as_usual() -> None:
    made = with_n((3, 20))
    there = made.contributions["update"] >= 5
    sizes = UpdateSizes.of(dataclasses.replace(made, contributions=made.contributions[there]))
    assert sizes.each.tolist() == [0] * 5 + [3] * 15
    assert sizes.known.tolist() == [3] * 20
    none = UpdateSizes.of(dataclasses.replace(made, contributions=made.contributions[:0]))
    assert (none.usual, none.fixed) == (3, True)


def test_sessions_that_repeat_steps_do_not_add_up() -> None:
    made = with_n((3, 20))
    twice = dataclasses.replace(
        made,
        contributions=np.concatenate([made.contributions] * 2),
        updates=np.concatenate([made.updates] * 2),
    )
    assert (twice.contributions["verdict"] == ACCEPTED).sum() == 120
    assert UpdateSizes.of(twice).each.tolist() == [3] * 40
