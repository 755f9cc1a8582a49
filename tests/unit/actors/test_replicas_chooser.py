"""N is chosen from measured times: the best split is found, and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.extra import with_extra
from tests.unit.timelines import Draw, timeline
from tf_backup.actors.replicas_chooser import ReplicasChooser
from tf_backup.policy import BackupPolicy
from tf_backup.timeline import schema

pytestmark = pytest.mark.slow  # Computes for seconds.

WORKERS = 6


def course(workers_at: Callable[[int], Sequence[float | Draw]], chunks: int) -> list[int]:
    """Return N after each chunk of updates; `workers_at` gives the workers' times in a chunk."""
    chooser = ReplicasChooser(BackupPolicy(WORKERS, 0, 0, WORKERS // 2, auto=True))
    chosen = []
    for chunk in range(chunks):
        n = chooser.replicas
        policy = BackupPolicy(n, WORKERS - n)
        made = timeline(workers_at(chunk), policy, 40, update_s=0.002, seed=chunk)
        rows = made.contributions.copy()
        updates = made.updates.copy()
        for name in ("began", "arrived"):  # One chunk after the other, minutes apart.
            rows[name] += chunk * 10**9
        for name in ("started", "released"):
            updates[name] += chunk * 10**9
        chooser.note(rows, updates)
        chosen.append(chooser.replicas)
    return chosen


def speed(durations: Sequence[float | Draw], n: int) -> float:
    """Return the gradients used per second by a static split."""
    made = timeline(durations, BackupPolicy(n, WORKERS - n), 2000, update_s=0.002, seed=99)
    return float(n * 2000 / (made.updates["released"][-1] - made.updates["released"][0]) * 1e6)


def near(seconds: float) -> Draw:
    return lambda rng: float(seconds * rng.uniform(0.9, 1.1))


def test_workers_alike_all_take_part() -> None:
    assert course(lambda chunk: [near(0.1)] * WORKERS, 12) == [WORKERS] * 12


def test_nobody_waits_for_a_slow_worker() -> None:
    slow = [*[near(0.1)] * 5, near(1.0)]
    chosen = course(lambda chunk: slow, 12)
    assert chosen[:2] == [6, 5]  # Two choices in a row have to agree.
    assert chosen[2:] == [5] * 10
    assert speed(slow, 5) == max(speed(slow, n) for n in range(3, 7))


def test_a_worker_that_becomes_slow_and_fast_again() -> None:
    chosen = course(lambda chunk: [*[near(0.1)] * 5, near(1.0 if 5 <= chunk < 15 else 0.1)], 30)
    assert chosen[4] == 6
    assert chosen[12] == 5
    assert chosen[-1] == 6
    assert np.count_nonzero(np.diff(chosen)) == 2


@pytest.mark.parametrize("shape", with_extra([1.3, 2.0, 3.0], 2.0, 3.0))
def test_heavy_tails_settle_near_the_best(shape: float) -> None:
    def tail(rng: np.random.Generator) -> float:
        return float(0.05 * (1 + rng.pareto(shape)))

    durations = [tail] * WORKERS
    chosen = course(lambda chunk: durations, 60)
    best = max(speed(durations, n) for n in range(3, 7))
    reached = np.mean([speed(durations, n) for n in chosen[20:]])
    assert reached > 0.9 * best
    assert np.count_nonzero(np.diff(chosen[20:])) <= 8


def test_a_worker_that_died_counts_as_slow() -> None:
    chooser = ReplicasChooser(BackupPolicy(3, 0, 0, 2, auto=True))
    made = timeline([0.1, 0.1, 0.1], BackupPolicy(3, 0), 40, update_s=0.002)
    chooser.note(made.contributions, made.updates)
    assert chooser.replicas == 3
    alone = timeline([0.1, 0.1], BackupPolicy(2, 0), 200, update_s=0.002)
    rows, updates = alone.contributions.copy(), alone.updates.copy()
    for name in ("began", "arrived"):
        rows[name] += 10**8
    updates["released"] += 10**8
    for start in range(0, 200, 40):
        mine = (rows["step"] >= start) & (rows["step"] < start + 40)
        chooser.note(rows[mine], updates[start : start + 40])
    assert chooser.replicas == 2


def test_a_worker_that_never_came_is_not_waited_for() -> None:
    chooser = ReplicasChooser(BackupPolicy(3, 0, 0, 2, auto=True))
    alone = timeline([0.1, 0.1], BackupPolicy(2, 0), 120, update_s=0.002)
    for start in range(0, 120, 40):
        mine = (alone.contributions["step"] // 40) == start // 40
        chooser.note(alone.contributions[mine], alone.updates[start : start + 40])
    assert chooser.replicas == 2


def test_too_little_is_known_at_first() -> None:
    chooser = ReplicasChooser(BackupPolicy(3, 0, 0, 2, auto=True))
    assert chooser.speeds() is None
    nothing = np.zeros(0, schema.CONTRIBUTION), np.zeros(0, schema.UPDATE)
    chooser.note(*nothing)
    assert chooser.replicas == 3


def test_n_is_chosen_every_8_updates_but_once_a_second_at_most() -> None:
    for gradient_s, updates in ((0.5, 16), (0.01, 108)):  # The second choice comes a second later.
        chooser = ReplicasChooser(BackupPolicy(3, 0, 0, 2, auto=True))
        made = timeline([gradient_s / 10, gradient_s / 10, gradient_s], BackupPolicy(3, 0), 300)
        changed = 0
        for step in range(300):
            mine = made.contributions["step"] == step
            chooser.note(made.contributions[mine], made.updates[step : step + 1])
            if chooser.replicas == 2:
                changed = step + 1
                break
        assert updates <= changed <= updates + 4
