"""Judgement of a training run with faults, and its tables, from made-up update logs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.faults.course import Course
from scripts.faults.fault_results import Results
from scripts.faults.faulted_run import Outcome
from scripts.faults.injector import Injection
from scripts.faults.judgement import Judge
from scripts.faults.scenario import parse

JUDGE = Judge(max_pause_s=4.0, max_restart_s=30.0)


def summary(made: int, **changes: int) -> dict[str, Any]:
    counts = {"accepted": 2 * made, "late": 3, "stale": 0, "duplicate": 0, "lost": 1}
    counts = {"computed": 2 * made + 4, **counts, "nonfinite": 0, **changes}
    return {
        "replicas": 2,
        "updates_of_this_run": made,
        "contributions": counts,
        "validation": {"accuracy": 0.975, "loss": 0.1},
    }


def outcome(
    *starts: tuple[float, int, Sequence[float]],
    faults: Sequence[tuple[float, str]] = (),
    missed: Sequence[str] = (),
    failure: str | None = None,
    **changes: int,
) -> Outcome:
    """Return an outcome: (time, updates before, times of updates) of each start; faults."""
    course = Course()
    for time, after, times in starts:
        course.note({"time": time, "start": after})
        for number, at in enumerate(times, start=after + 1):
            course.note({"time": at, "update": number})
    injections = [Injection(parse(text), time, 1) for time, text in faults]
    for each in injections:
        if each.fault.seconds is not None:
            each.end = each.time + each.fault.seconds
    done = None if failure else summary(len(starts[-1][2]), **changes)
    return Outcome(course, injections, [parse(text) for text in missed], done, failure)


def test_a_run_that_goes_on_fails_nothing() -> None:
    run = outcome((0.0, 0, [1, 2, 5.5, 6]), faults=[(2.1, "kill worker 1 at step 2")])
    assert JUDGE.failures(run) == []
    assert [pause.seconds for pause in run.course.pauses()] == [1, 3.5, 0.5]


def test_a_long_pause_is_named_with_its_fault() -> None:
    run = outcome((0.0, 0, [1, 2, 7, 8]), faults=[(2.1, "kill worker 1 at step 2")])
    assert JUDGE.failures(run) == [
        "A pause of 5.0 s after update 2, with 'kill worker 1 at step 2', is longer than the 4 s "
        "of --max_pause_s."
    ]


@pytest.mark.parametrize(("end", "fails"), [(9.0, False), (11.0, True)])
def test_a_pause_with_a_validation_may_be_twice_as_long(end: float, fails: bool) -> None:
    run = outcome((0.0, 0, [1, 2]))
    run.course.note({"time": 2.5, "validation": 2})
    run.course.note({"time": end, "update": 3})
    run.course.note({"time": end + 1, "update": 4})
    failures = [each for each in JUDGE.failures(run) if "pause" in each]
    assert bool(failures) == fails
    assert [pause.validates for pause in run.course.pauses()] == [False, True, False]


@pytest.mark.parametrize(("seconds", "fails"), [(3, False), (2, True)])
def test_the_freeze_of_a_ps_may_last_as_long_as_it_does(seconds: int, fails: bool) -> None:
    fault = f"freeze ps 0 for {seconds} s at step 2"
    run = outcome((0.0, 0, [1, 2, 8.5, 9]), faults=[(2.5, fault)])
    assert bool(JUDGE.failures(run)) == fails


def test_a_restart_may_take_longer_and_loses_updates() -> None:
    faults = [(3.5, "kill chief at step 3")]
    run = outcome((0.0, 0, [1, 2, 3]), (15.0, 1, [20, 21]), faults=faults)
    assert JUDGE.failures(run) == []
    assert run.course.lost(1) == 2
    assert run.course.made == 3
    (total,) = [row for row in Results(run, None, JUDGE).faults[1] if row[0] == "all"]
    assert total == ["all", "1", "1", "2", "17.0"]
    late = outcome((0.0, 0, [1, 2, 3]), (35.0, 1, [40, 41]), faults=faults)
    assert "longer than the 30 s of --max_restart_s" in JUDGE.failures(late)[0]


def test_a_restart_without_a_reason_fails() -> None:
    run = outcome((0.0, 0, [1, 2]), (5, 2, [6, 7]), faults=[(1.5, "kill worker 0 at step 1")])
    assert JUDGE.failures(run) == [
        "Training started again 1 times, but only 0 of the faults give a reason for that."
    ]


def test_the_last_faults_before_a_stall_are_not_survived() -> None:
    run = outcome(
        (0.0, 0, [1, 2, 3, 8]),
        faults=[(1.5, "kill worker 0 at step 1"), (7.5, "kill worker 1 at step 3")],
        failure="Training made no update for 60 s.",
    )
    failures = JUDGE.failures(run)
    assert failures[:2] == [
        "Training made no update for 60 s.",
        "Training did not go on after 'kill worker 1 at step 3' (step 1).",
    ]
    assert [row[:3] for row in Results(run, None, JUDGE).faults[1]] == [
        ["kill worker", "2", "1"],
        ["all", "2", "1"],
    ]


def test_accounts_must_add_up() -> None:
    assert "do not add up" in JUDGE.failures(outcome((0.0, 0, [1, 2]), late=2))[0]
    (failure,) = JUDGE.failures(outcome((0.0, 0, [1, 2]), accepted=3, late=4))
    assert failure == "3 gradients were accepted, but updates used 4."


@pytest.mark.parametrize(("accepted", "fails"), [(1, True), (2, False), (4, False), (5, True)])
def test_updates_that_shrink_use_1_to_n_gradients(accepted: int, fails: bool) -> None:
    run = outcome((0.0, 0, [1, 2]), accepted=accepted, computed=accepted + 4)
    failures = Judge(4.0, 30.0, shrinks=True).failures(run)
    expected = [f"{accepted} gradients were accepted, but updates used 2 to 4."]
    assert failures == (expected if fails else [])


@pytest.mark.parametrize(("last", "fails"), [(4.2, False), (4.4, True)])
def test_training_with_faults_has_a_part_of_the_speed(last: float, fails: bool) -> None:
    judge, baseline = Judge(4.0, 30.0, min_speed=0.7), outcome((0.0, 0, [1, 2, 2.5, 3.31]))
    failures = judge.failures(outcome((0.0, 0, [1, 2, 3, last])), baseline)
    said = (
        "Training made 0.88 updates per second with faults and 1.30 without: less than the part "
        "0.7 of --min_speed."
    )
    assert failures == ([said] if fails else [])


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "fails"),
    [
        ("accuracy", 0.98, 0.99, False),
        ("accuracy", 0.96, 0.99, True),
        ("accuracy", 0.99, 0.96, False),  # Better.
        ("loss", 2.02, 2.0, False),
        ("loss", 2.05, 2.0, True),
        ("loss", 1.5, 2.0, False),
        ("loss", float("nan"), 2.0, True),
    ],
)
def test_the_result_is_near_that_without_faults(
    metric: str, ours: float, theirs: float, fails: bool
) -> None:
    runs = [outcome((0.0, 0, [1, 2])) for _ in range(2)]
    for run, value in zip(runs, (ours, theirs), strict=True):
        assert run.summary is not None
        run.summary["validation"] = {metric: value}
    failures = Judge(4.0, 30.0, tolerance=0.02).failures(*runs)
    said = f"The final {metric} is {ours:.4g} with faults and {theirs:.4g} without: worse by"
    assert [failure.startswith(said) for failure in failures] == [True] * fails


def test_faults_after_the_end_are_named() -> None:
    (failure,) = JUDGE.failures(outcome((0.0, 0, [1]), missed=["kill worker 1 at 9 s"]))
    assert "1 of the faults were not injected" in failure and "kill worker 1 at 9 s" in failure


def test_a_csv_file_has_a_row_for_each_kind(tmp_path: Path) -> None:
    run = outcome(
        (0.0, 0, [1, 2, 3, 5]),
        faults=[(1.5, "kill worker 0 at step 1"), (3.5, "freeze worker 1 for 1 s at step 3")],
    )
    path = tmp_path / "faults.csv"
    Results(run, run, JUDGE).write(str(path), {"seed": 1}, {"cores": 2})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fault"] for row in rows] == ["kill worker", "freeze worker", "all"]
    assert [row["injected"] for row in rows] == ["1", "1", "2"]
    assert [row["longest_pause_s"] for row in rows] == ["1", "2", "2"]
    for row in rows:
        assert (row["seed"], row["cores"], row["updates"], row["starts"]) == ("1", "2", "4", "1")
        assert row["updates_per_s"] == row["baseline_updates_per_s"] == "0.75"
        assert (row["metric"], row["result"]) == ("accuracy", "0.975")
        assert row["computed"] == "12"
