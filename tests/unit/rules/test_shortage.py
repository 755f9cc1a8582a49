"""Rules of updates while workers are missing: several gradients of a worker, or fewer than N."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.rules.test_protocol import Gate as PlainGate
from tests.unit.rules.test_protocol import check_books
from tests.unit.rules.test_protocol_random import Call, rule, tensors
from tests.unit.servers.test_ledger_changes import changes_of
from tf_backup.actors.timeline_reader import Resolver
from tf_backup.policy import BackupPolicy
from tf_backup.rules import protocol, shortage
from tf_backup.rules.protocol import (
    ABSENT,
    ACCEPTED,
    COMPUTING,
    DELIVERED,
    DUPLICATE,
    EXPELLED,
    LATE,
    LEFT,
    NONFINITE,
    STALE,
    WAIT,
    Ledger,
)
from tf_backup.servers import gate_rules
from tf_backup.servers.event import Event
from tf_backup.servers.gate_rules import TENSORS, pack, unpacked
from tf_backup.servers.ledger_changes import LedgerChanges
from tf_backup.timeline import schema


class Gate:
    """A ledger of a policy with `fill`; each call checks the accounts and is recorded."""

    def __init__(self, workers: int, replicas: int) -> None:
        self.size, self.replicas = workers, replicas
        self.indices = np.arange(workers)
        self.ledger = protocol.new_ledger(workers, replicas)
        self.calls: list[Call] = []
        self.continued: list[Call] = []  # Of a rule that is a part of another's call.
        self.tickets = 0
        self.call("open_run", np.int64(0))

    def call(self, name: str, *args: Any) -> Any:
        result = rule(name)(self.ledger, *args)
        self.keep(name, args, result)
        return result

    def keep(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        self.calls.append((name, self.ledger, args, result))
        self.ledger = result if isinstance(result, Ledger) else result[0]
        check_books(self.ledger)
        assert protocol.inside(self.ledger, protocol.NUMPY) <= self.replicas

    def enter(self, worker: int, life: int) -> tuple[int, int]:
        """Let a worker enter at the place of its number; return its next action and its entry."""
        run = self.ledger.run
        self.call("admit", self.indices, np.int64(worker), np.int64(life), run)
        me = self.indices == worker
        _, then = self.call("enter", me, np.int64(life), run, self.replicas)
        return int(then), int(self.ledger.entries)

    def enter_all(self) -> None:
        for worker in range(self.size):
            assert self.enter(worker, 10 + worker)[0] == self.ledger.step

    def offer(
        self, worker: int, step: int | None = None, entry: int | None = None, finite: bool = True
    ) -> tuple[int, int, bool]:
        """Offer a gradient with the next ticket, as the gate's rule for workers does."""
        step = int(self.ledger.step) if step is None else step
        entry = int(self.ledger.entry[worker]) if entry is None else entry
        self.tickets += 1
        before, me = self.ledger, self.indices == worker
        args = (me, np.int64(entry), before.run, np.int64(step), np.int64(self.tickets))
        args = (*args, self.replicas, 0, np.int64(finite))
        after, verdict, then, complete = protocol.offer(before, *args)
        more = (after, self.indices, me, verdict, then, self.replicas)
        ledger, then = shortage.continue_step(before, *more)
        self.continued.append(("continue_step", before, more, (ledger, then)))
        self.keep("offer", args, (ledger, verdict, then, complete))
        return int(verdict), int(then), bool(complete)

    def set_quota(self, quota: int) -> list[int]:
        return list(self.call("set_quota", np.int64(quota), self.replicas)[1])

    def advance(self) -> list[int]:
        return list(self.call("advance")[1])

    def expire(self, *workers: int) -> list[int]:
        return list(self.call("expire", np.isin(self.indices, workers))[1])

    @property
    def used(self) -> list[tuple[int, int]]:
        """The (ticket, place) pairs of the event that completes the step."""
        policy = BackupPolicy(self.replicas, self.size - self.replicas, fill=True)
        packed = tf.constant(pack(self.ledger))
        _, events = gate_rules.of_policy(policy).tick(packed, tf.constant(1, tf.int64))
        event = Event(*events[0].numpy())
        assert (event.step == self.ledger.step).all()
        assert (event.staleness == 0).all()
        return list(zip(event.tickets.tolist(), event.places.tolist(), strict=True))


@pytest.mark.parametrize(
    ("replicas", "alive", "quota"),
    [(3, 3, 1), (3, 5, 1), (3, 2, 2), (3, 1, 3), (3, 0, 3), (8, 3, 3)],
)
def test_quota_is_the_smallest_that_suffices(replicas: int, alive: int, quota: int) -> None:
    assert shortage.quota_for(replicas, alive) == quota


def test_while_all_are_there_each_contributes_once() -> None:
    gate = Gate(3, 3)
    gate.enter_all()
    assert gate.offer(0) == (ACCEPTED, WAIT, False)
    assert gate.offer(0) == (DUPLICATE, WAIT, False)
    assert gate.ledger.status[0] == DELIVERED


def test_the_others_contribute_twice_while_one_is_missing() -> None:
    gate = Gate(3, 3)
    gate.enter_all()
    assert gate.offer(0) == (ACCEPTED, WAIT, False)
    gate.expire(2)
    assert gate.set_quota(2) == [0, WAIT, WAIT]  # Worker 0 waits, and is told to go on.
    assert gate.offer(1) == (ACCEPTED, 0, False)
    assert gate.offer(0) == (ACCEPTED, WAIT, True)
    assert gate.used == [(3, 0), (2, 1), (1, 0)]
    assert gate.offer(1) == (LATE, WAIT, False)
    assert gate.advance() == [1, 1, WAIT]
    assert gate.ledger.accepted.tolist() == [2, 1, 0]
    assert gate.ledger.lost.tolist() == [0, 0, 1]


def test_one_worker_alone_makes_the_whole_update() -> None:
    gate = Gate(3, 3)
    gate.enter_all()
    gate.expire(1, 2)
    gate.set_quota(3)
    assert [gate.offer(0)[1:] for _ in range(3)] == [(0, False), (0, False), (WAIT, True)]
    assert gate.used == [(3, 0), (1, 0), (2, 0)]
    assert gate.advance() == [1, WAIT, WAIT]
    assert gate.ledger.accepted.tolist() == [3, 0, 0]


def test_a_worker_never_exceeds_its_quota() -> None:
    gate = Gate(4, 4)
    gate.enter_all()
    gate.expire(3)
    gate.set_quota(2)
    assert [gate.offer(0)[1] for _ in range(2)] == [0, WAIT]  # Two more are of the others.
    assert gate.offer(0)[0] == DUPLICATE
    gate.offer(1)
    assert gate.offer(2)[2]
    assert [place for _, place in gate.used] == [0, 1, 2, 0]


def test_who_comes_back_in_the_middle_of_a_step_contributes_to_it() -> None:
    gate = Gate(3, 3)
    gate.enter_all()
    gate.expire(2)
    gate.set_quota(2)
    gate.offer(0)
    gate.offer(0)
    assert gate.enter(2, life=50)[0] == 0
    assert gate.set_quota(1) == [WAIT] * 3
    assert gate.offer(2) == (ACCEPTED, WAIT, True)
    assert gate.offer(1)[0] == LATE
    assert gate.advance() == [1, 1, 1]
    assert [gate.offer(worker)[1:] for worker in range(3)] == [
        (WAIT, False),
        (WAIT, False),
        (WAIT, True),
    ]
    assert [place for _, place in gate.used] == [0, 1, 2]


def test_what_a_worker_delivered_before_it_died_is_used() -> None:
    gate = Gate(2, 2)
    gate.enter_all()
    gate.expire(1)
    gate.set_quota(2)
    assert gate.offer(0) == (ACCEPTED, 0, False)
    old = int(gate.ledger.entry[0])
    gate.expire(0)  # While it computes its second gradient.
    assert (gate.ledger.status[0], gate.ledger.queued[0]) == (ABSENT, 1)
    assert gate.enter(0, life=60)[0] == 0
    assert gate.offer(0, entry=old) == (DUPLICATE, EXPELLED, False)
    assert gate.offer(0) == (ACCEPTED, WAIT, True)
    assert gate.used == [(3, 0), (1, 0)]
    gate.advance()
    assert (gate.ledger.accepted[0], gate.ledger.lost[0], gate.ledger.duplicate[0]) == (2, 1, 1)


def test_an_extra_gradient_with_nan_is_counted_and_another_computed() -> None:
    gate = Gate(2, 2)
    gate.enter_all()
    gate.expire(1)
    gate.set_quota(2)
    gate.offer(0)
    assert gate.offer(0, finite=False) == (NONFINITE, 0, False)
    assert gate.offer(0) == (ACCEPTED, WAIT, True)


def test_an_extra_gradient_of_an_earlier_step_is_stale() -> None:
    gate = Gate(3, 2)
    gate.enter_all()
    gate.set_quota(2)
    gate.offer(0)
    gate.offer(1)
    assert gate.advance() == [WAIT, 1, WAIT]
    assert gate.offer(0, step=0)[:2] == (STALE, 1)


@pytest.mark.parametrize("updated", [False, True])
def test_the_end_of_the_run_counts_all_that_is_in(updated: bool) -> None:
    gate = Gate(3, 3)
    gate.enter_all()
    gate.expire(1, 2)
    gate.set_quota(3)
    for _ in range(3 if updated else 2):
        gate.offer(0)
    gate.call("close_run", updated)
    assert gate.ledger.accepted[0] == (3 if updated else 0)
    assert gate.ledger.stale[0] == (0 if updated else 2)
    assert not gate.ledger.queued.any()


def test_what_is_in_counts_although_its_worker_has_no_more_data() -> None:
    gate = Gate(2, 2)
    gate.enter_all()
    gate.set_quota(2)
    gate.offer(0)
    me, entry = gate.indices == 0, gate.ledger.entry[0]
    _, exhausted = gate.call("leave", me, entry, gate.ledger.run, gate.replicas)
    assert (bool(exhausted), gate.ledger.status[0]) == (False, LEFT)
    assert gate.offer(1)[2]
    assert gate.advance() == [WAIT, 1]
    assert protocol.exhausted(gate.ledger, gate.replicas)


def test_asynchronous_training_and_fewer_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match=r'on_shortage="fill"\), but max_staleness is None'):
        BackupPolicy(2, 1, None, fill=True)
    with pytest.raises(ValueError, match="with fill all updates have 3 gradients"):
        BackupPolicy(3, 0, least_replicas=2, fill=True)
    assert (BackupPolicy(3, fill=True).least_workers, BackupPolicy(3).least_workers) == (1, 3)


def test_an_offer_at_the_gate_may_be_followed_by_another() -> None:
    """The same through the packed ledger, as the gate runs it."""
    rules = gate_rules.of_policy(BackupPolicy(2, 0, fill=True))

    def numbers(*values: int) -> list[tf.Tensor]:
        return [tf.constant(value, tf.int64) for value in values]

    packed, _ = rules.open_run(pack(protocol.new_ledger(2, 2)), *numbers(7))
    packed, _ = rules.admit(packed, *numbers(0, 10, 1))
    packed, answer = rules.enter(packed, *numbers(0, 10, 1))
    assert answer.numpy().tolist() == [7, 1, 0]
    packed, then, events = rules.offer(packed, *numbers(0, 1, 1, 7, 100, 1))
    assert (int(then), events.shape[0]) == (WAIT, 0)
    packed, _, tokens, sizes, events = rules.set_quota(packed, *numbers(2))
    assert tokens.numpy()[0].tolist() == [1, 7]
    assert (sizes.numpy().tolist(), events.shape[0]) == ([[1, 2], [0, 2]], 0)
    packed, then, events = rules.offer(packed, *numbers(0, 1, 1, 7, 101, 1))
    assert int(then) == WAIT
    assert events.numpy().tolist() == [[[7, 7], [101, 100], [0, 0], [0, 0]]]
    packed, answer = rules.enter(packed, *numbers(0, 10, 1))
    assert answer.numpy().tolist() == [WAIT, 2, 2]
    assert unpacked(packed.numpy()).queued.tolist() == [2, 0]


# ---- Random schedules ----------------------------------------------------------------------------


@dataclasses.dataclass
class Actor:
    """A worker process, and what it knows."""

    life: int = 0  # 0: dead, or its lease has ended.
    entry: int = 0
    step: int = WAIT  # The step that it works on, WAIT, or STOP if it does nothing.


class Cluster:
    """Workers that compute, die and come back around a gate, and a chief that sets the quota."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([8, seed])
        self.replicas = int(self.rng.integers(1, 5))
        self.size = self.replicas + int(self.rng.integers(0, 3))
        self.gate = Gate(self.size, self.replicas)
        self.actors = [Actor() for _ in range(self.size)]
        self.lives = 0
        self.full_since = 0  # The first step that begins with a quota of 1.
        self.quotas = {1}  # Quotas of the current step.
        self.accepted: list[tuple[int, int]] = []  # (ticket, place) pairs in this step,
        self.used: set[int] = set()  # and all tickets that were used.
        self.verdicts: set[int] = set()
        self.most = 0

    @property
    def calls(self) -> list[Call]:
        return self.gate.calls

    @property
    def alive(self) -> list[int]:
        return [worker for worker, actor in enumerate(self.actors) if actor.life]

    def events(self, failures: bool) -> list[tuple[str, int]]:
        found = []
        for worker, actor in enumerate(self.actors):
            if not actor.life:
                found += [("enter", worker)] * failures
            elif actor.step >= 0:
                found += [("offer", worker)] * 6
            if actor.life and failures:
                found.append(("die", worker))
        if protocol.complete(self.gate.ledger, self.replicas):
            found += [("update", 0)] * 4
        if int(self.gate.ledger.quota) != self.right_quota:
            found += [("set_quota", 0)] * 2
        return found

    @property
    def right_quota(self) -> int:
        return shortage.quota_for(self.replicas, len(self.alive))

    def happen(self, failures: bool) -> bool:
        """Let something happen; return whether anything can."""
        events = self.events(failures)
        if events:
            name, worker = events[self.rng.integers(len(events))]
            getattr(self, name)(worker)
            self.check()
        return bool(events)

    def enter(self, worker: int) -> None:
        self.lives += 1
        then, entry = self.gate.enter(worker, self.lives)
        self.actors[worker] = Actor(self.lives, entry, then)

    def die(self, worker: int) -> None:
        """End a worker's lease. It may only have been frozen: then what it sends is refused."""
        actor = self.actors[worker]
        self.actors[worker] = Actor()
        tokens = self.gate.expire(worker)
        assert {token for place, token in enumerate(tokens) if place != worker} <= {WAIT}
        if actor.step >= 0 and self.rng.random() < 0.5:
            delivered = self.gate.ledger.entry[worker] == actor.entry  # A token it never took.
            verdict, then, _ = self.gate.offer(worker, actor.step, actor.entry)
            assert delivered or (verdict, then) == (DUPLICATE, EXPELLED)
            self.verdicts.add(verdict)

    def offer(self, worker: int) -> None:
        actor, quota = self.actors[worker], int(self.gate.ledger.quota)
        finite = self.rng.random() < 0.95
        step, full = self.gate.ledger.step, len(self.accepted) == self.replicas
        verdict, then, complete = self.gate.offer(worker, actor.step, finite=finite)
        right = STALE if actor.step < step else LATE if full else ACCEPTED
        assert verdict == (right if finite else NONFINITE)
        if verdict == ACCEPTED:
            self.accepted.append((self.gate.tickets, worker))
        mine = sum(place == worker for _, place in self.accepted)
        full_now = len(self.accepted) == self.replicas
        assert complete == (verdict == ACCEPTED and full_now)
        goes_on = mine < quota if verdict == ACCEPTED else verdict in (STALE, NONFINITE)
        assert then == (step if goes_on and not full_now else WAIT)
        actor.step = then
        self.verdicts.add(verdict)

    def set_quota(self, _: int) -> None:
        self.take(self.gate.set_quota(self.right_quota))
        self.quotas.add(self.right_quota)

    def update(self, _: int) -> None:
        """Check that the update uses N accepted gradients of this step, each for the first time."""
        used = self.gate.used
        assert sorted(used) == sorted(self.accepted)
        tickets = {ticket for ticket, _ in used}
        assert len(tickets) == self.replicas
        assert not tickets & self.used
        self.used |= tickets
        most = max(Counter(place for _, place in used).values())
        assert most <= max(self.quotas)
        self.most = max(self.most, most)
        self.accepted = []
        self.quotas = {int(self.gate.ledger.quota)}
        self.take(self.gate.advance())

    def take(self, tokens: list[int]) -> None:
        for actor, token in zip(self.actors, tokens, strict=True):
            if token != WAIT and actor.life:
                assert actor.step == WAIT
                actor.step = int(token)

    def check(self) -> None:
        ledger = self.gate.ledger
        counts = Counter(place for _, place in self.accepted)
        assert ledger.queued.tolist() == [counts[place] for place in range(self.size)]
        assert ledger.accepted.sum() == self.replicas * int(ledger.step) == len(self.used)
        for worker in self.alive:
            assert (ledger.status[worker] == COMPUTING) == (self.actors[worker].step >= 0)


def played(seed: int) -> Cluster:
    """Return a cluster after random events, whose living workers then make two more updates."""
    cluster = Cluster(seed)
    for _ in range(80):
        cluster.happen(failures=True)
    if not cluster.alive:
        cluster.enter(int(cluster.rng.integers(cluster.size)))
    goal = cluster.gate.ledger.step + 2
    while cluster.gate.ledger.step < goal:
        assert cluster.happen(failures=False), "deadlock"
    return cluster


SEEDS = 50


def test_invariants_hold_under_random_schedules() -> None:
    clusters = [played(seed) for seed in range(SEEDS)]
    assert max(cluster.most for cluster in clusters) == 4
    seen = set.union(*[cluster.verdicts for cluster in clusters])
    assert seen == {ACCEPTED, LATE, STALE, DUPLICATE, NONFINITE}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("updated", [False, True])
def test_rows_of_the_timeline_add_up_to_the_ledger(seed: int, updated: bool) -> None:
    cluster = played(seed)
    complete = bool(protocol.complete(cluster.gate.ledger, cluster.replicas))
    cluster.gate.call("close_run", updated and complete)
    ledger = cluster.gate.ledger
    changes = LedgerChanges(cluster.size)
    named: Any = cluster
    rows = Resolver().resolve(changes.rows(np.concatenate(changes_of(named))))[0]
    assert not changes.unknown
    for place in range(cluster.size):
        counted = Counter(rows["verdict"][rows["place"] == place].tolist())
        for verdict, name in enumerate(schema.VERDICTS):
            assert counted[verdict] == getattr(ledger, name)[place], (name, place)
    used = rows[rows["verdict"] == schema.ACCEPTED]
    assert (np.bincount(used["update"]) == cluster.replicas).all()
    assert (used["began"] > 0).all()


@pytest.mark.parametrize("name", ["set_quota", "continue_step"])
def test_rules_on_tensors_equal_rules_on_numpy(name: str) -> None:
    gates = [played(seed).gate for seed in range(20)]
    calls = [c for gate in gates for c in gate.calls + gate.continued if c[0] == name]
    assert len(calls) > 50
    for _, ledger, args, expected in calls[:100]:
        result = rule(name)(tensors(ledger), *tensors(args), TENSORS)
        pairs = zip(tf.nest.flatten(expected), tf.nest.flatten(result), strict=True)
        for right, mine in pairs:
            assert mine.dtype.as_numpy_dtype == np.asarray(right).dtype
            np.testing.assert_array_equal(mine.numpy(), right)


# ---- Fewer than N ------------------------------------------------------------------------------


def shrinking(workers: int, replicas: int) -> PlainGate:
    """Return a gate whose updates may be made of fewer than N gradients."""
    gate = PlainGate(workers, replicas)
    gate.ledger = gate.ledger._replace(replicas=np.int64(replicas))
    return gate


def test_a_step_of_fewer_gradients_is_completed_by_the_change():
    gate = shrinking(3, 3)
    gate.enter_all()
    gate.offer(0)
    gate.offer(1)
    gate.ledger, completes = shortage.resize(gate.ledger, np.int64(2))
    assert completes
    assert gate.ledger.replicas == 2
    assert protocol.complete(gate.ledger, gate.ledger.replicas)
    assert np.flatnonzero(protocol.used(gate.ledger)).tolist() == [0, 1]


def test_a_step_never_has_fewer_gradients_than_it_has_got():
    gate = shrinking(4, 4)
    gate.enter_all()
    for worker in range(3):
        gate.offer(worker)
    gate.ledger, completes = shortage.resize(gate.ledger, np.int64(1))
    assert completes
    assert gate.ledger.replicas == 3


def test_a_complete_step_is_left_as_it_is():
    """Its update may be in progress, with these gradients and no others."""
    gate = shrinking(3, 2)
    gate.enter_all()
    gate.offer(0)
    gate.offer(1)
    for wanted in (1, 3):
        after, completes = shortage.resize(gate.ledger, np.int64(wanted))
        assert after.replicas == 2
        assert not completes
        after, _ = protocol.advance(after)
        assert after.replicas == wanted  # From the next step on.


def test_before_its_first_gradient_a_step_changes_silently():
    gate = shrinking(3, 3)
    gate.ledger, completes = shortage.resize(gate.ledger, np.int64(1))
    assert (int(gate.ledger.replicas), bool(completes)) == (1, False)
    gate.ledger, completes = shortage.resize(gate.ledger, np.int64(3))
    assert (int(gate.ledger.replicas), bool(completes)) == (3, False)
