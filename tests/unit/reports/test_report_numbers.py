"""scripts/reports: the numbers, against those of small trainings that were worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from scripts.reports import amounts, shown_updates
from scripts.reports.arrivals_by_rank import ArrivalsByRank
from scripts.reports.incidents import Incident, incidents
from scripts.reports.recording import Recording, Run, ranks
from scripts.reports.slowdowns import Replay, slowdowns
from scripts.reports.speed_over_time import SpeedOverTime
from scripts.reports.work_shares import WorkShares
from scripts.reports.worker_scores import own_score, scores
from tests.unit.recorded_training import BEGINNING_US, trained
from tests.unit.timelines import one_after_the_other
from tf_backup.timeline.schema import ACCEPTED, LATE, LOST, STALE, Timeline

NEVER = math.inf


def one_slow(updates: int = 4, **settings: object) -> Timeline:
    """Return N = 2 and b = 1, a step of 2 s, and worker 2 always stale.

    Worker 0 takes 1 s, worker 1 1.5 s, the update 0.5 s. Worker 2 takes 2.6 s: it computes from 0,
    2.6 and 5.2 s, and waits from 7.8 to 8 s.
    """
    took = (1.0, 1.5, 2.6)
    return trained(lambda worker, n: took[worker], 2, 1, updates, update_s=0.5, **settings)


def test_the_kth_gradient_is_timed_from_the_release_before() -> None:
    found = ArrivalsByRank.of(Recording(one_slow()))
    assert found.times == pytest.approx(
        np.array([[1.0, 1.5, 5.2 - 2.0], [1.0, 1.5, 7.8 - 4.0], [1.0, 1.5, NEVER]])
    )
    assert found.share.tolist() == [1, 1, pytest.approx(2 / 3)]
    assert found.mean == pytest.approx([1.0, 1.5, 3.5])
    assert found.quantile(0.5) == pytest.approx([1.0, 1.5, 3.8])
    assert found.quantile(0.9)[2] == NEVER
    times, share = found.curve(3)
    assert (times[0], times[-1]) == (pytest.approx(3.2), pytest.approx(3.8))
    assert (share[0], share[-1]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found.shown_ranks() == [1, 2, 3]


def changed_n() -> Timeline:
    """Return 40 updates of N = 3 in 3.5 s each, and then 60 of N = 1 in 1.5 s each."""
    took = (1.0, 2.0, 3.0)
    return one_after_the_other(
        *(
            trained(lambda worker, n: took[worker], n, 3 - n, updates, update_s=0.5)
            for n, updates in ((3, 40), (1, 60))
        )
    )


def test_n_is_that_of_each_update() -> None:
    recording = Recording(changed_n())
    assert (recording.settings.replicas, str(recording.sizes)) == (3, "1 to 3")
    half, full = recording.nth_used
    assert full - half == pytest.approx([1.0] * 40 + [0.0] * 60)  # From the second to the third.
    arrivals = ArrivalsByRank.of(recording)
    assert (arrivals.replicas, arrivals.steps) == (1, 59)
    assert arrivals.mean[0] == pytest.approx(1.0)
    assert slowdowns(recording) is None


def test_the_first_step_of_each_run_is_left_out() -> None:
    recording = Recording(one_slow(updates=6, runs=2))
    assert np.isnan(recording.starts).tolist() == [True, False, False, True, False, False]
    assert ArrivalsByRank.of(recording).steps == 4


def test_waiting_is_from_half_of_the_gradients_to_all() -> None:
    recording = Recording(one_slow())
    half, full = recording.nth_used
    assert full - half == pytest.approx([0.5] * 4)
    assert recording.update_seconds == pytest.approx([0.5] * 4)


def test_pauses_are_no_time_of_training() -> None:
    recording = Recording(one_slow(updates=6, runs=2, pause_s=100.0))
    assert recording.runs == [Run(1, 0.0, 6.0), Run(2, 106.0, 112.0)]
    assert recording.seconds == pytest.approx(12.0)


def test_every_second_of_a_worker_is_counted_once() -> None:
    shares = WorkShares.of(Recording(one_slow()))
    assert shares.counts[:, [ACCEPTED, LATE, STALE]].tolist() == [[4, 0, 0], [4, 0, 0], [0, 0, 3]]
    assert shares.seconds[:, ACCEPTED] == pytest.approx([4.0, 6.0, 0.0])
    assert shares.seconds[:, STALE] == pytest.approx([0.0, 0.0, 7.8])
    assert shares.waiting == pytest.approx([4.0, 2.0, 0.2])
    assert shares.unused.tolist() == [0, 0, 1]
    assert shares.of_time.sum(axis=1) == pytest.approx([1, 1, 1])


def test_scores_are_ratios_of_medians() -> None:
    found = scores(Recording(one_slow()))
    assert [each.relative for each in found] == pytest.approx([1, 1 / 1.5, 1 / 2.6])
    assert [each.slow for each in found] == [False, True, True]
    assert [each.own for each in found] == [None] * 3  # Too few for a window.
    assert found[1].median_compute == pytest.approx(0.9 * 1.5)


def test_a_worker_that_has_become_slow_has_a_low_score_against_itself() -> None:
    assert own_score(np.repeat([1.0, 2.0], 50)) == pytest.approx(0.5)
    assert own_score(np.repeat([2.0, 1.0], 50)) == pytest.approx(1.0)
    assert own_score(np.ones(9)) is None


def test_what_a_known_slow_worker_costs() -> None:
    # N = 3: each update waits for worker 2. Without it, 1 + 0.5 s instead of 3 + 0.5 s.
    took = (1.0, 1.0, 3.0)
    timeline = trained(lambda worker, n: took[worker], 3, updates=20, update_s=0.5)
    found = slowdowns(Recording(timeline))
    assert found is not None
    assert (found.recorded, found.replayed) == (pytest.approx(3.5), pytest.approx(3.5))
    assert (found.none_slow, found.none_long) == (pytest.approx(1.5), pytest.approx(1.5))
    assert found.without == {2: pytest.approx(1.5)}
    assert found.gain(found.without[2]) == pytest.approx(4 / 7)


def test_with_a_backup_a_slow_worker_costs_nothing() -> None:
    found = slowdowns(Recording(one_slow(updates=20)))
    assert found is not None
    assert (found.recorded, found.replayed) == (pytest.approx(2.0), pytest.approx(2.0))
    assert found.none_slow == pytest.approx(2.0)  # Nobody is faster than 1 s and 1.5 s.


def test_a_replay_repeats_durations_in_their_order() -> None:
    replay = Replay([np.array([1.0, 2.0]), np.array([5.0])])
    rng = np.random.default_rng(0)
    assert replay(rng, np.array([0, 1])).tolist() == [1, 5]
    assert replay(rng, np.array([0])).tolist() == [2]
    assert replay(rng, np.array([0, 1])).tolist() == [1, 5]


def test_lost_gradients_and_absences_are_found() -> None:
    # Steps of 1.2 s. Worker 1 is lost in step 2, and comes back in step 6.
    took = (1.0, 1.1)
    timeline = trained(lambda worker, n: took[worker], 1, 1, updates=10, update_s=0.2)
    rows = timeline.contributions.copy()
    lost = (rows["worker"] == 1) & (rows["step"] == 2)
    away = (rows["worker"] == 1) & (rows["step"] >= 3) & (rows["step"] <= 5)
    rows["verdict"][lost], rows["step"][lost] = LOST, -1
    found = incidents(Recording(dataclasses.replace(timeline, contributions=rows[~away])))
    assert found == [
        Incident(pytest.approx(2.4), 1, "lost", pytest.approx(1.1), 0),
        Incident(pytest.approx(3.5), 1, "away", pytest.approx(3.7), 3),
    ]
    assert incidents(Recording(timeline)) == []


def test_who_joins_late_or_does_not_come_back_is_found() -> None:
    timeline = trained(lambda worker, n: 1.0 + worker / 10, 1, 1, updates=10, update_s=0.2)
    rows = timeline.contributions
    some = (rows["worker"] == 0) | ((rows["step"] >= 3) & (rows["step"] <= 5))
    found = incidents(Recording(dataclasses.replace(timeline, contributions=rows[some])))
    assert [(each.kind, each.worker, each.updates) for each in found] == [
        ("joined", 1, 3),
        ("gone", 1, 4),
    ]


def test_speed_is_per_second_of_training() -> None:
    # 40 updates of 2 s in each run, with two used and about one stale gradient each.
    found = SpeedOverTime.of(Recording(one_slow(updates=80, runs=2, pause_s=400.0)))
    assert found.edges.tolist() == [0, 40, 80, 120, 160]  # The pause is cut out.
    assert found.used == pytest.approx([1.0] * 4)
    assert (found.computed > 1.3).all()


def test_windows_show_usual_updates_and_the_slowest() -> None:
    timeline = trained(lambda worker, n: 9.0 if n == 12 else 1.0, 2, updates=30)
    recording = Recording(timeline)
    usual, slowest = shown_updates.usual(recording), shown_updates.slowest(recording)
    assert usual.last - usual.first == 5
    assert usual.end - usual.begin == pytest.approx(6.0)
    assert slowest is not None
    assert (slowest.first, slowest.last) == (11, 13)
    assert slowest.end - slowest.begin == pytest.approx(11.0)


def test_one_update_is_enough() -> None:
    recording = Recording(trained(lambda worker, n: 1.0, 1, updates=1))
    assert ArrivalsByRank.of(recording).steps == 0
    assert shown_updates.usual(recording)[2:] == (0.0, 1.0)
    assert shown_updates.slowest(recording) is None
    assert slowdowns(recording) is None


def test_no_update_is_an_error() -> None:
    timeline = one_slow()
    with pytest.raises(ValueError, match="not one whole update"):
        Recording(dataclasses.replace(timeline, updates=timeline.updates[:0]))


def test_times_are_from_the_first_event() -> None:
    assert Recording(one_slow()).origin_us == BEGINNING_US


def test_ranks_count_within_groups() -> None:
    assert ranks(np.array([4, 4, 5, 7, 7, 7])).tolist() == [0, 1, 0, 0, 1, 2]
    assert ranks(np.array([])).tolist() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (12e-6, "12 µs"), (0.0215, "21.5 ms"), (1.5, "1.5 s"), (5400.0, "1.5 h")],
)
def test_durations_have_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert amounts.seconds(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (0.0001, "under 0.1 %"), (0.9999, "over 99.9 %"), (1.0, "100.0 %")],
)
def test_a_small_share_is_not_rounded_to_nothing(share: float, text: str) -> None:
    assert amounts.percent(share).replace("\N{NO-BREAK SPACE}", " ") == text
