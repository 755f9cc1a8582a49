"""Simulated times of updates: against the gate's own rules, event by event, and closed forms."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import math
from typing import Any

import numpy as np
import pytest

from tf_backup.policy import BackupPolicy
from tf_backup.rules import places, protocol
from tf_backup.simulation.delays import Exponential
from tf_backup.simulation.timing import Simulated, simulate

CASES, UPDATES = 75, 10
BOUNDS = (0, 1, 2, 5, None)


class Scripted:
    """Durations whose k-th one of a worker is always the same, whoever asks for it and when."""

    def __init__(self, seed: int, workers: int, ties: bool) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.exponential(size=[workers, 400]) * rng.uniform(0.2, 4.0, [workers, 1])
        if ties:
            self.table = np.ceil(self.table * 2) / 2
        self.drawn = np.zeros([workers], np.int64)

    def __call__(self, rng: np.random.Generator, workers: np.ndarray) -> np.ndarray:
        del rng
        drawn = self.table[workers, self.drawn[workers]]
        self.drawn[workers] += 1
        return drawn

    def one(self, worker: int) -> float:
        return float(self(np.random.default_rng(0), np.array([worker]))[0])


@dataclasses.dataclass
class Direct:
    """Training on a virtual clock, in which the gate's rules decide one event after another."""

    durations: Scripted
    policy: BackupPolicy
    update_s: float
    times: list[float] = dataclasses.field(default_factory=list)
    used: list[list[int]] = dataclasses.field(default_factory=list)
    staleness: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        workers = self.policy.workers
        bound = self.policy.max_staleness
        self.bound = protocol.ANY_STALENESS if bound is None else bound
        self.numbers = np.arange(workers)
        self.offers: list[tuple[float, int, int]] = []  # When, by whom, of which step.
        self.release = math.inf  # When the update under way is released.
        self.ledger = protocol.open_run(protocol.new_ledger(workers), np.int64(0))
        one = np.int64(1)
        for worker in range(workers):
            number = np.int64(worker)
            self.ledger, _ = places.admit(self.ledger, self.numbers, number, number + 1, one)
            self.ledger, then = places.enter(
                self.ledger, self.numbers == worker, number + 1, one, self.policy.replicas
            )
            self.begin(worker, 0.0, then)

    def begin(self, worker: int, now: float, step: Any) -> None:
        heapq.heappush(self.offers, (now + self.durations.one(worker), worker, int(step)))

    def train(self, updates: int) -> None:
        while len(self.times) < updates:
            if self.offers and self.offers[0][0] <= self.release:
                self.offer(*heapq.heappop(self.offers))
            else:
                self.advance()

    def offer(self, now: float, worker: int, step: int) -> None:
        me = self.numbers == worker
        entry = self.ledger.entry[worker]
        self.ledger, _, then, complete = protocol.offer(
            self.ledger, me, entry, 1, step, np.int64(0), self.policy.replicas, self.bound
        )
        if then >= 0:
            self.begin(worker, now, then)
        if complete and self.release == math.inf:
            self.release = now + self.update_s

    def advance(self) -> None:
        used = protocol.used(self.ledger)
        self.used.append(np.flatnonzero(used).tolist())
        self.staleness += self.ledger.staleness[used].tolist()
        self.ledger, tokens = protocol.advance(self.ledger)
        now = self.release
        self.times.append(now)
        for worker in np.flatnonzero(tokens >= 0).tolist():
            self.begin(worker, now, tokens[worker])
        more = protocol.complete(self.ledger, self.policy.replicas)
        self.release = now + self.update_s if more else math.inf


def random_case(number: int) -> tuple[BackupPolicy, float, dict[str, Any]]:
    rng = np.random.default_rng([3, number])
    replicas, backups = int(rng.integers(1, 6)), int(rng.integers(0, 6))
    policy = BackupPolicy(replicas, backups, BOUNDS[number % len(BOUNDS)])
    update_s = float(rng.choice([0.0, 0.5, 2.0, 8.0]))
    script = {"seed": number, "workers": policy.workers, "ties": bool(rng.random() < 0.5)}
    return policy, update_s, script


@pytest.mark.parametrize("bound", BOUNDS)
def test_updates_are_those_of_the_rules(bound: int | None):
    seen = {"late": 0, "stale": 0}
    for number in range(BOUNDS.index(bound), CASES, len(BOUNDS)):
        policy, update_s, script = random_case(number)
        direct = Direct(Scripted(**script), policy, update_s)
        before = np.zeros([policy.workers], np.int64)
        for updates in range(1, UPDATES + 1):
            direct.train(updates)
            mine = simulate(Scripted(**script), policy, updates, update_s=update_s)
            of = f"case {number}, {policy}, update {updates}"
            assert mine.times.tolist() == direct.times, of
            used = mine.counts.accepted - before
            assert np.repeat(direct.numbers, used).tolist() == direct.used[-1], of
            before = mine.counts.accepted
            for verdict, counts in mine.counts._asdict().items():
                assert counts.tolist() == getattr(direct.ledger, verdict).tolist(), (of, verdict)
            assert mine.staleness.tolist() == np.bincount(direct.staleness).tolist(), of
        seen = {verdict: seen[verdict] + counts_of(mine)[verdict] for verdict in seen}
    assert (seen["stale"] > 0) == (bound is not None)
    assert seen["late"] > 0 or bound in (5, None)


def counts_of(simulated: Simulated) -> dict[str, int]:
    return {name: int(counts.sum()) for name, counts in simulated.counts._asdict().items()}


# --- Closed forms


def constant(*seconds: float) -> Any:
    return lambda rng, workers: np.asarray(seconds)[workers]


def test_without_backups_an_update_takes_as_long_as_the_slowest_worker():
    workers, updates = 20, 3000
    harmonic = sum(1 / k for k in range(1, workers + 1))
    mine = simulate(Exponential(0.5, 2.0), BackupPolicy(workers), updates, update_s=0.25)
    sigma = 2.0 * math.sqrt(sum(1 / k**2 for k in range(1, workers + 1)) / updates)
    assert mine.seconds_per_update == pytest.approx(0.75 + 2.0 * harmonic, abs=4 * sigma)
    assert (mine.wasted, mine.mean_staleness) == (0.0, 0.0)


def test_backups_of_workers_without_memory():
    """With exponential times, a worker that goes on and one that begins anew are alike."""

    @functools.cache
    def expected(missing: int, fresh: int, old: int) -> float:
        """Return the mean time until `missing` more gradients are accepted."""
        if not missing:
            return 0.0
        then = fresh * expected(missing - 1, fresh - 1, old) if fresh else 0.0
        then += old * expected(missing, fresh + 1, old - 1) if old else 0.0
        return (1 + then) / (fresh + old)

    mine = simulate(Exponential(0.0, 1.0), BackupPolicy(16, 4), 4000, warmup=1)
    assert mine.seconds_per_update == pytest.approx(expected(16, 16, 4), rel=0.03)


def test_equal_workers():
    mine = simulate(constant(2.0, 2.0, 2.0), BackupPolicy(2, 1), 5, update_s=0.5)
    assert mine.times.tolist() == [2.5, 5.0, 7.5, 10.0, 12.5]
    assert [count.tolist() for count in mine.counts] == [[5, 5, 0], [0, 0, 5], [0, 0, 0]]
    assert mine.wasted == pytest.approx(1 / 3)


def test_one_slow_worker_costs_nothing_with_a_backup():
    durations = constant(1.0, 1.0, 1.0, 3.5)
    assert simulate(durations, BackupPolicy(4), 10).seconds_per_update == 3.5
    mine = simulate(durations, BackupPolicy(3, 1), 14)
    assert mine.seconds_per_update == 1.0
    # It ends at 3.5, when step 3 has begun, and begins that step at once.
    assert [int(count[3]) for count in mine.counts] == [0, 0, 4]


def test_asynchronous_workers_do_not_wait():
    workers, updates = 8, 10000
    mine = simulate(Exponential(0.0, 1.0), BackupPolicy.asynchronous(workers), updates)
    assert mine.seconds_per_update == pytest.approx(1 / workers, rel=0.05)
    assert mine.mean_staleness == pytest.approx(workers - 1, rel=0.02)
    assert mine.max_staleness == len(mine.staleness) - 1
    assert (mine.wasted, mine.staleness.sum()) == (0.0, updates)


def test_asynchronous_updates_take_turns():
    """When updates take longer than gradients, they set the pace."""
    mine = simulate(constant(1.0, 1.0, 1.0), BackupPolicy.asynchronous(3), 100, update_s=1.0)
    assert np.diff(mine.times).tolist() == [1.0] * 99
    assert mine.mean_staleness == pytest.approx(2.0, abs=0.05)


def test_softsync_averages_gradients_of_any_age():
    mine = simulate(Exponential(0.0, 1.0), BackupPolicy(4, 12, None), 5000)
    # Those whose gradients are in do not compute while the others of the four are awaited.
    fill = 1 / 16 + 1 / 15 + 1 / 14 + 1 / 13
    assert mine.seconds_per_update == pytest.approx(fill, rel=0.03)
    assert mine.staleness.sum() == 4 * 5000
    assert mine.mean_staleness == pytest.approx(16 / 4 - 1, rel=0.01)


# --- Arguments


def test_warm_up_is_left_out():
    seconds = itertools.chain([100.0], itertools.repeat(1.0))
    durations = lambda rng, workers: np.full(len(workers), next(seconds))  # noqa: E731
    mine = simulate(durations, BackupPolicy(2), 11, warmup=1)
    assert mine.seconds_per_update == 1.0
    assert len(mine.times) == 11


def test_same_seed_same_result():
    policy = BackupPolicy(5, 2)
    runs = [simulate(Exponential(0.1, 1.0), policy, 20, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].times.tolist() == runs[1].times.tolist() != runs[2].times.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"updates": 0}, "updates is 0; it must be at least 1"),
        ({"warmup": 10}, "warmup is 10, but only 10 update.*Simulate more updates, or lower"),
        ({"update_s": -1.0}, "update_s is -1.0; it must be at least 0 and finite"),
        ({"update_s": math.nan}, "update_s is nan"),
        ({"durations": constant(1.0, 0.0)}, r"returned 0\.0 for worker 1; .* must be positive"),
        ({"durations": constant(1.0, math.inf)}, "returned inf for worker 1"),
        ({"durations": constant(math.nan, 1.0)}, "returned nan for worker 0"),
        ({"durations": lambda rng, workers: np.ones(3)}, r"of shape \(3,\) for 2 worker"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str):
    right: dict[str, Any] = {"durations": constant(1.0, 1.0), "updates": 10}
    with pytest.raises(ValueError, match=message):
        simulate(policy=BackupPolicy(2), **{**right, **arguments})
