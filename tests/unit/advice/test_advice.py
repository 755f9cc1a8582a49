import dataclasses
import math
import types

import numpy as np
import pytest

import tf_backup.timeline
from tests.unit.timelines import one_after_the_other, timeline
from tf_backup.advice.recommend import recommend
from tf_backup.errors import RecordsError
from tf_backup.policy import BackupPolicy
from tf_backup.timeline import schema


def exponential(rng):
    return rng.exponential()


def heavy(rng):
    return 1 + rng.pareto(3.0)  # Pareto's distribution from 1 on.


def without(made, verdict):
    kept = made.contributions["verdict"] != verdict
    return dataclasses.replace(made, contributions=made.contributions[kept])


def seconds_per_update(advice):
    return np.array([split.seconds_per_update for split in advice.splits])


def order_statistics(advice):
    return np.array([split.order_statistic_s for split in advice.splits])


def measured_pace(draws, replicas, update_s=0.0, updates=4000):
    """Return the time per update of a long training."""
    policy = BackupPolicy(replicas, len(draws) - replicas)
    released = timeline(draws, policy, updates, update_s=update_s, seed=99).updates["released"]
    return np.diff(released).mean() / 1e6


# --- Known answers


@pytest.mark.parametrize("policy", [BackupPolicy(6), BackupPolicy(4, 2)], ids=str)
def test_exponential_times_have_the_order_statistics_of_the_books(policy):
    advice = recommend(timeline([exponential] * 6, policy, 3000, update_s=0.25))
    expected = np.cumsum([1 / k for k in range(6, 0, -1)])
    assert order_statistics(advice) - 0.25 == pytest.approx(expected, rel=0.04)
    assert advice.update_s == pytest.approx(0.25)


def test_pareto_times_have_the_order_statistics_of_the_books():
    advice = recommend(timeline([heavy] * 5, BackupPolicy(5), 4000))
    gamma = math.gamma
    expected = [
        gamma(6) * gamma(6 - n - 1 / 3) / (gamma(6 - n) * gamma(6 - 1 / 3)) for n in range(1, 6)
    ]
    assert order_statistics(advice) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("draw", [exponential, heavy], ids=["exponential", "pareto"])
@pytest.mark.parametrize("measured", [BackupPolicy(5), BackupPolicy(3, 2)], ids=str)
def test_one_training_tells_the_pace_of_others(draw, measured):
    advice = recommend(timeline([draw] * 5, measured, 3000, update_s=0.1))
    for replicas in (2, 4, 5):
        expected = measured_pace([draw] * 5, replicas, update_s=0.1)
        found = advice.splits[replicas - 1].seconds_per_update
        assert found == pytest.approx(expected, rel=0.05)


def test_stragglers_are_missing_from_the_next_steps():
    advice = recommend(timeline([exponential] * 5, BackupPolicy(5), 2000))
    assert (seconds_per_update(advice)[:-1] > 1.1 * order_statistics(advice)[:-1]).all()
    assert seconds_per_update(advice)[-1] == pytest.approx(order_statistics(advice)[-1], rel=0.02)


def test_one_slow_worker_is_the_backup():
    advice = recommend(timeline([1.0] * 7 + [3.0], BackupPolicy(8), 100, batch_size=32))
    assert (advice.replicas, advice.backups, advice.confidence) == (7, 1, 1.0)
    gain = (7 / 1) / (8 / 3) - 1
    assert advice.gain == pytest.approx(gain)
    assert advice.gain_interval == pytest.approx((gain, gain))
    assert advice.lost_by_choice == pytest.approx(100 * (1 - 1 / (1 + gain)))
    best = advice.splits[6]
    assert best.seconds_per_update == pytest.approx(1.0)
    assert best.gradients_per_s == pytest.approx(7.0)
    assert best.samples_per_s == pytest.approx(7.0 * 32)
    assert best.time_to_converge == 1.0
    assert best.wasted == pytest.approx(0.32 / 7.32, abs=0.02)  # One in three steps.


def test_a_noisy_slow_worker_is_the_backup():
    draws = [lambda rng: 1 + rng.exponential(0.05)] * 5 + [lambda rng: 2.5 + rng.exponential(0.1)]
    advice = recommend(timeline(draws, BackupPolicy(6), 300))
    assert (advice.replicas, advice.backups) == (5, 1)
    assert advice.confidence > 0.99
    expected = 5 / measured_pace(draws, 5) / (6 / measured_pace(draws, 6)) - 1
    assert advice.gain == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("policy", [BackupPolicy(4), BackupPolicy(3, 1)], ids=str)
def test_workers_that_are_alike_need_no_backups(policy):
    advice = recommend(timeline([1.0] * 4, policy, 100, update_s=0.5))
    assert (advice.replicas, advice.backups, advice.confidence) == (4, 0, 1.0)
    assert seconds_per_update(advice) == pytest.approx(1.5)
    assert advice.gain == pytest.approx(4 / policy.replicas - 1)


def test_slowness_in_common_is_no_reason_for_backups():
    def shared(rng):
        return 5.0 if rng.random() < 0.2 else 1.0

    advice = recommend(timeline([1.0] * 6, BackupPolicy(6), 600, shared=shared))
    assert advice.replicas == 6
    assert seconds_per_update(advice)[3:] == pytest.approx(1.8, rel=0.1)


def test_runs_do_not_matter():
    draws = [exponential] * 4
    whole = recommend(timeline(draws, BackupPolicy(3, 1), 2000))
    parts = recommend(timeline(draws, BackupPolicy(3, 1), 2000, run_length=50))
    assert seconds_per_update(parts) == pytest.approx(seconds_per_update(whole), rel=0.05)


def test_asynchronous_training_tells_the_same():
    made = timeline([exponential] * 5, BackupPolicy.asynchronous(5), 12000, update_s=0.01)
    advice = recommend(made)
    expected = np.cumsum([1 / k for k in range(5, 0, -1)])
    assert order_statistics(advice) - 0.01 == pytest.approx(expected, rel=0.05)
    for replicas in (2, 4, 5):
        pace = measured_pace([exponential] * 5, replicas, update_s=0.01)
        assert advice.splits[replicas - 1].seconds_per_update == pytest.approx(pace, rel=0.05)
    assert (advice.gain, advice.gain_interval, advice.lost_by_choice) == (None, None, None)
    assert any("asynchronous" in note for note in advice.notes)


# --- N that changes


def changing(*lengths):
    """Return the timeline of N = 4, ..., each for a number of updates; one worker is slow."""
    draws = [1.0, 1.0, 1.0, 3.0]
    return one_after_the_other(
        *(timeline(draws, BackupPolicy(n, 4 - n), updates) for n, updates in lengths)
    )


def test_the_runs_own_n_is_that_of_its_updates():
    """`replicas="auto"` begins with all workers, and that stays in the settings."""
    made = changing((4, 5), (3, 200))
    assert made.settings.replicas == 4
    advice = recommend(made)
    assert (advice.replicas, advice.run) == (3, (3, 1))
    assert (advice.gain, advice.lost_by_choice) == (0.0, 0.0)
    assert advice.notes == ()
    assert "The run's own N = 3 and b = 1 is the fastest" in str(advice)


def test_a_run_whose_n_changed_is_not_compared():
    advice = recommend(changing((4, 65), (3, 60)))
    assert (advice.replicas, advice.run) == (3, None)
    assert (advice.gain, advice.gain_interval, advice.lost_by_choice) == (None, None, None)
    # 60 updates of 4 gradients in 3 s each, and 60 of 3 in 1 s.
    assert advice.notes == (
        "N changed during the run (3 to 4 gradients per update), so it is none of these splits. It "
        f"used {3.5 / advice.measured_s:.4g} gradients per second as measured, and N = 3 would use "
        "3 by replay.",
    )
    assert advice.measured_s == pytest.approx(2.0, rel=0.02)
    assert "compared with the run itself (its N changed)" in " ".join(str(advice).split())
    assert "this run" not in str(advice)


# --- Lost gradients, and those without a duration


def given_up(rng, worker, seconds):
    """Give up three in ten of the gradients that take longer than 1 s, after 1 s."""
    return 1.0 if seconds > 1.0 and rng.random() < 0.3 else None


def test_lost_gradients_count_as_long():
    made = timeline([exponential] * 6, BackupPolicy(5, 1), 3000, give_up=given_up)
    expected = np.cumsum([1 / k for k in range(6, 0, -1)])
    assert order_statistics(recommend(made)) == pytest.approx(expected, rel=0.05)
    ignored = order_statistics(recommend(without(made, schema.LOST)))
    assert (ignored[2:] < 0.92 * expected[2:]).all()
    # Nor may the time until it was given up be taken for a duration.
    rows = made.contributions.copy()
    rows["verdict"][rows["verdict"] == schema.LOST] = schema.STALE
    cut_short = order_statistics(recommend(dataclasses.replace(made, contributions=rows)))
    assert cut_short[-1] < 0.9 * expected[-1]


def test_a_tail_that_nobody_has_seen_gets_a_note():
    made = timeline(
        [exponential] * 4, BackupPolicy(3, 1), 300, give_up=lambda rng, worker, s: 2.0 * (s > 2)
    )
    advice = recommend(made)
    assert any("lost after longer than" in note for note in advice.notes)
    assert order_statistics(advice)[-1] < 2.001


@pytest.mark.parametrize("verdict", [schema.DUPLICATE, schema.NONFINITE])
def test_gradients_that_were_not_sent_in_time_are_left_out(verdict):
    made = timeline([1.0] * 3, BackupPolicy(2, 1), 50)
    odd = made.contributions[:40].copy()
    odd["verdict"], odd["arrived"] = verdict, odd["began"] + 99_000_000
    rows = np.concatenate([made.contributions, odd])
    advice = recommend(dataclasses.replace(made, contributions=rows))
    assert seconds_per_update(advice) == pytest.approx(1.0)


def test_a_clock_that_was_set_back_does_not_matter():
    made = timeline([1.0] * 3, BackupPolicy(2, 1), 120)
    made.contributions["arrived"][50:60] = made.contributions["began"][50:60] - 3_600_000_000
    advice = recommend(made)
    assert seconds_per_update(advice) == pytest.approx(1.0)
    assert any(note.startswith("10 gradient(s) arrived no later") for note in advice.notes)


def test_worker_without_gradients_is_like_the_others():
    made = timeline([1.0, 1.0, 1.0], BackupPolicy(2, 1), 120)
    rows = made.contributions[made.contributions["place"] != 2]
    advice = recommend(dataclasses.replace(made, contributions=rows))
    assert seconds_per_update(advice) == pytest.approx(1.0)
    assert advice.notes[0].startswith("No gradients of worker 2 were measured")


def test_absent_worker_gets_a_note():
    made = timeline([1.0, 1.0, 2.0], BackupPolicy(2, 1), 200)
    rows = made.contributions
    early = (rows["place"] == 2) & (rows["began"] < np.median(rows["began"]))
    advice = recommend(dataclasses.replace(made, contributions=rows[early]))
    assert any("Absent" in note and "worker 2" in note for note in advice.notes)


def test_warm_up_is_left_out():
    made = timeline([1.0, 1.0, 1.0], BackupPolicy(3), 60)
    made.contributions["began"][:9] -= 60_000_000  # Three slow steps, while workers trace.
    advice = recommend(made)
    assert advice.updates == 55
    assert seconds_per_update(advice) == pytest.approx(1.0)


def test_updates_of_unknown_start_will_do():
    made = timeline([1.0, 1.0, 1.0], BackupPolicy(3), 60, update_s=0.5)
    made.updates["started"] = schema.UNKNOWN  # As with several parameter servers.
    assert recommend(made).update_s == pytest.approx(0.5)


# --- Number of updates that training needs


def test_updates_by_n_decide():
    made = timeline([1.0] * 3 + [2.0], BackupPolicy(4), 100)
    assert recommend(made, updates=lambda n: 100 / n).replicas == 3
    assert recommend(made, updates=lambda n: 100 / n**2).replicas == 3
    assert recommend(made, updates=lambda n: 100 / n**4).replicas == 4
    assert (
        recommend(made, updates={1: 5, 4: 5}).replicas == 3
    )  # At equal times, the most gradients.


def test_updates_between_those_given_are_interpolated():
    made = timeline([1.0] * 4, BackupPolicy(3, 1), 100)
    advice = recommend(made, updates={2: 300, 4: 100})
    times = [split.time_to_converge for split in advice.splits]
    assert math.isnan(times[0])
    assert times[1:] == pytest.approx([3, 2, 1])
    assert advice.gain == pytest.approx(1.0)
    assert any("1 split(s) are not compared" in note for note in advice.notes)


def test_run_whose_n_has_no_updates_is_not_compared():
    advice = recommend(timeline([1.0] * 4, BackupPolicy(1, 3), 100), updates={2: 300, 4: 100})
    assert advice.replicas == 4
    assert (advice.gain, advice.lost_by_choice) == (None, None)
    assert "cannot be compared" in str(advice)


# --- Arguments


def test_a_folder_is_read(monkeypatch):
    made = timeline([1.0] * 3, BackupPolicy(3), 50)
    noted = dataclasses.replace(made, notes=("Some rows are missing.",))
    fake = types.SimpleNamespace(read=lambda folder: noted)
    monkeypatch.setattr(tf_backup.timeline, "parquet", fake, raising=False)
    assert recommend("logs").notes[0] == "Some rows are missing."
    assert dataclasses.replace(recommend("logs"), notes=()) == dataclasses.replace(
        recommend(made), notes=()
    )


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="no records"):
        recommend(tmp_path)


def test_same_arguments_give_the_same_advice():
    made = timeline([exponential] * 4, BackupPolicy(3, 1), 200, give_up=given_up)
    assert recommend(made, seed=3) == recommend(made, seed=3)


@pytest.mark.parametrize("updates", [0, 1])
def test_too_few_updates(updates):
    made = timeline([1.0] * 2, BackupPolicy(2), 5)
    with pytest.raises(ValueError, match=rf"has {updates} update\(s\); at least 2 are needed"):
        recommend(dataclasses.replace(made, updates=made.updates[:updates]))


def test_two_updates_will_do():
    advice = recommend(timeline([1.0, 1.0], BackupPolicy(2), 2))
    assert advice.replicas == 2
    assert any("Only 2 updates" in note for note in advice.notes)


def test_no_gradients():
    made = timeline([1.0] * 2, BackupPolicy(2), 5)
    with pytest.raises(ValueError, match="None of the timeline's 0 gradient"):
        recommend(dataclasses.replace(made, contributions=made.contributions[:0]))


@pytest.mark.parametrize("level", [0, 1, -0.5, 90, math.nan])
def test_level_outside_its_range(level):
    with pytest.raises(ValueError, match=f"level is {level}; it must be between 0 and 1"):
        recommend(timeline([1.0] * 2, BackupPolicy(2), 5), level=level)


@pytest.mark.parametrize(
    ("updates", "error", "message"),
    [
        (3, TypeError, "must be a function of N, a mapping from N, or None, not 3"),
        ({}, ValueError, r"for N in \[\], none of which"),
        ({5: 100}, ValueError, r"for N in \[5\], none of which can be had with 2 worker"),
        ({1: 0}, ValueError, "gives 0 for N = 1; it must be the number"),
        (lambda n: math.inf, ValueError, "gives inf for N = 1"),
        (lambda n: None, ValueError, "gives None for N = 1"),
    ],
)
def test_bad_updates(updates, error, message):
    with pytest.raises(error, match=message):
        recommend(timeline([1.0] * 2, BackupPolicy(2), 5), updates=updates)


def test_bad_source():
    with pytest.raises(TypeError, match="must be a Timeline or the path"):
        recommend(7)
