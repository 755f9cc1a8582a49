"""Scenarios of faults: the grammar, what does not fit a training run, and random schedules."""

from __future__ import annotations

import re

import pytest

from scripts.faults import random_faults
from scripts.faults.fault import ACTIONS, Fault, Moment, Target
from scripts.faults.scenario import Limits, parse


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill worker 1 at step 50", Fault("kill", Target("worker", 1), Moment(50, True))),
        ("restart chief at 2.5 s", Fault("restart", Target("chief"), Moment(2.5, False))),
        (
            "freeze ps 0 for 5 s at step 10",
            Fault("freeze", Target("ps", 0), Moment(10, True), seconds=5),
        ),
        (
            "freeze worker 2 from 1 s to 9 s",
            Fault("freeze", Target("worker", 2), Moment(1, False), end=Moment(9, False)),
        ),
        (
            "slow worker 2 by 4 from step 20 to step 60",
            Fault("slow", Target("worker", 2), Moment(20, True), end=Moment(60, True), factor=4),
        ),
        (
            "slow chief by 1.5 for 3 s at 0 s",
            Fault("slow", Target("chief"), Moment(0, False), seconds=3, factor=1.5),
        ),
        (
            "cut worker 1 for 20 s at step 10",
            Fault("cut", Target("worker", 1), Moment(10, True), seconds=20),
        ),
    ],
)
def test_a_fault_is_written_in_words(text: str, fault: Fault) -> None:
    assert parse(text) == fault
    assert str(fault) == text
    assert parse(f"  {text.upper().replace(' S ', 'S ')} ") == fault


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "'kill' or 'restart' or 'freeze' or 'slow' or 'cut' must come first, not the end"),
        ("cut ps 0 for 5 s at 5 s", "'worker' must come after 'cut', not 'ps'"),
        ("cut worker 1 at 5 s", "'for' or 'from' must come after '1', not 'at'"),
        ("explode worker 1 at step 5", "must come first, not 'explode'"),
        ("kill server 1 at step 5", "'worker' or 'ps' or 'chief' must come after 'kill'"),
        ("kill worker at step 5", "a number must come after 'worker', not 'at'"),
        ("kill worker 1.5 at step 5", "the index is 1.5; it must be a whole number"),
        ("kill worker -1 at step 5", "the index is -1; it must be at least 0"),
        ("kill chief 0 at step 5", "'at' must come after 'chief', not '0'"),
        ("kill worker 1", "'at' must come after '1', not the end"),
        ("kill worker 1 at", "'step' or a number of seconds must come after 'at', not the end"),
        ("kill worker 1 at step", "a number must come after 'step', not the end"),
        ("kill worker 1 at step 0", "the step is 0; it must be above 0"),
        ("kill worker 1 at step 2.5", "the step is 2.5; it must be a whole number"),
        ("kill worker 1 at -3 s", "the time is -3; it must be at least 0"),
        ("kill worker 1 at 3", "'s' must come after '3', not the end"),
        ("kill worker 1 at 3 s for 5 s", "the end must come after 's', not 'for'"),
        ("freeze worker 1 at step 5", "'for' or 'from' must come after '1', not 'at'"),
        ("freeze worker 1 for 0 s at step 5", "the time is 0; it must be above 0"),
        ("slow worker 1 for 5 s at step 5", "'by' must come after '1', not 'for'"),
        ("slow worker 1 by 1 for 5 s at step 5", "the factor is 1; it must be above 1"),
        ("freeze worker 1 from step 9 to step 9", "step 9 must be later than step 9"),
        ("freeze worker 1 from step 9 to 20 s", "and both steps or both seconds"),
    ],
)
def test_what_is_no_fault_is_refused_with_an_example(text: str, rule: str) -> None:
    pattern = rf"^--fault is {re.escape(repr(text))}: .*{re.escape(rule)}"
    with pytest.raises(ValueError, match=pattern) as caught:
        parse(text)
    example = re.search(r"Write it as in '(.*)'\.$", str(caught.value))
    assert example
    parse(example[1])


def limits(resumable: bool = True) -> Limits:
    return Limits(workers=3, ps=1, updates=100, resumable=resumable)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("kill worker 3 at step 5", "but the cluster has worker 0 to 2"),
        ("kill ps 1 at step 5", "but the cluster has ps 0 to 0"),
        ("kill worker 1 at step 100", "but training ends at step 100. Name an earlier step, or"),
        ("slow worker 1 by 2 from step 9 to step 100", "but training ends at step 100"),
        ("freeze ps 0 from step 9 to step 12", "so that step never comes. Say how long"),
        ("freeze chief from step 9 to step 12", "so that step never comes. Say how long"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, rule: str) -> None:
    fault = parse(text)
    with pytest.raises(ValueError, match=rf"^--fault is '{text}', .*{re.escape(rule)}"):
        limits().check([parse("kill worker 0 at step 1"), fault])


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("kill chief at step 5", True),
        ("restart ps 0 at step 5", True),
        ("freeze ps 0 for 5 s at step 5", True),
        ("freeze chief for 5 s at step 5", False),
        ("slow ps 0 by 2 for 5 s at step 5", False),
        ("kill worker 1 at step 99", False),
    ],
)
def test_a_restart_needs_checkpoints(text: str, refused: bool) -> None:
    limits(resumable=True).check([parse(text)])
    if refused:
        with pytest.raises(ValueError, match=r"has to go on from a checkpoint. Give --log_dir"):
            limits(resumable=False).check([parse(text)])
    else:
        limits(resumable=False).check([parse(text)])


WORKERS = [Target("worker", index) for index in range(5)]


def draw(count: int = 400, mean_s: float = 5.0, seed: int = 1, backups: int = 2) -> list[Fault]:
    return random_faults.draw(count, mean_s, seed, WORKERS, ACTIONS, backups)


def test_a_seed_determines_random_faults() -> None:
    assert draw() == draw()
    assert draw(seed=2) != draw(seed=1)
    assert draw(100) == draw(400)[:100]


def test_random_faults_are_of_all_kinds_and_all_tasks() -> None:
    faults = draw()
    assert {fault.action for fault in faults} == set(ACTIONS)
    assert {fault.target for fault in faults} == set(WORKERS)
    for fault in faults:
        assert parse(str(fault)) == fault


def test_random_faults_have_their_mean_time() -> None:
    faults = random_faults.draw(2000, 5.0, 3, [Target("ps", 0)], ["kill"], backups=0)
    times = [fault.begin.value for fault in faults]
    assert times == sorted(times)
    assert 4.5 < times[-1] / len(times) < 5.5


@pytest.mark.parametrize("backups", [0, 1, 2, 4])
def test_no_more_than_b_workers_are_disturbed_at_once(backups: int) -> None:
    faults = draw(mean_s=0.5, backups=backups)
    for number, fault in enumerate(faults):
        at = fault.begin.value + 0.01
        disturbed = [
            each
            for each in faults[:number]
            if at < each.begin.value + (each.seconds or 0.0) + (each.action != "slow") * 5.9
        ]
        assert len(disturbed) < max(1, backups)
        assert fault.target not in {each.target for each in disturbed}
