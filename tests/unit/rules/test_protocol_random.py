"""Rules of the gate under random schedules: workers compute, die, freeze, return and leave.

The actors do what agent.py, worker.py and engine.py do. The expected answers come from a model that
knows only the accepted gradients, and not the states of places.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.extra import with_extra
from tf_backup.rules import places, protocol, shortage
from tf_backup.rules.protocol import (
    ACCEPTED,
    ANY_STALENESS,
    COMPUTING,
    DELIVERED,
    DUPLICATE,
    EXPELLED,
    LATE,
    LEFT,
    NO_PLACE,
    NONFINITE,
    STALE,
    STOP,
    WAIT,
    WAITING,
    Ledger,
)
from tf_backup.servers.gate_rules import TENSORS

pytestmark = pytest.mark.slow  # Computes for seconds.

SCHEDULES, BLOCKS, EVENTS = 1000, 10, 60
SLOTS = tuple(name for name in protocol.VECTORS if not name.startswith("extra_"))
BOUNDS = (0, 1, 2, 5, ANY_STALENESS)

Event = tuple[str, int]
Call = tuple[str, Ledger, tuple[Any, ...], Any]


def rule(name: str) -> Any:
    return next(getattr(each, name) for each in (places, shortage, protocol) if hasattr(each, name))


@dataclasses.dataclass
class Actor:
    """A worker process: its state, and what it knows."""

    speed: int  # Weight of its computing events.
    alive: bool = True
    frozen: bool = False
    life: int = 0
    place: int = -1
    entry: int = 0
    run: int = 0  # The run that it works for, or has finished.
    doing: str = "nothing"  # or "computing" or "waiting"
    step: int = -1
    last_offer: tuple[int, int] | None = None  # Run and step, until it acts on the answer.
    computed: int = -1  # The last step that this entry has worked on.


@dataclasses.dataclass
class Place:
    """State on the servers for a place, and what the model knows of it."""

    batches: int = 0  # Batches left in this run.
    inbox: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (entry, token) pairs.
    awaited: bool = False  # Its entry was told to wait, and got no token since.


@dataclasses.dataclass(frozen=True)
class Admitted:
    """An accepted gradient that awaits its update."""

    place: int
    ticket: int
    step: int  # Step at which it was computed.


class Cluster:
    """Actors around a ledger; every event checks the invariants."""

    def __init__(self, rng: np.random.Generator, bound: int) -> None:
        self.rng = rng
        self.coin = rng.spawn(1)[
            0
        ]  # For gradients that are not finite: other events stay the same.
        self.size = int(rng.integers(1, 7))
        self.replicas = int(rng.integers(1, min(3, self.size) + 1))
        self.most = self.wanted = self.replicas
        self.bound = bound
        self.haste = int(rng.choice([1, 4, 8]))  # Weight of the update event.
        self.ledger = protocol.new_ledger(self.size, self.replicas)
        spares = int(rng.integers(0, 3))
        self.actors = [Actor(int(rng.choice([1, 4, 8]))) for _ in range(self.size + spares)]
        self.places = [Place() for _ in range(self.size)]
        self.lives = 0
        for actor in self.actors:
            self.begin_life(actor)
        self.updates = 0
        self.taken = 0  # Gradients that all updates together were made of.
        self.queue: list[Admitted] = []  # First come, first used.
        self.used = np.zeros([self.size], np.int64)  # Gradients used, by place.
        self.ages: list[int] = []  # Staleness of the gradients used.
        self.left: set[int] = set()  # Places that have reported the end of their data.
        self.complete: list[tuple[int, int]] = []  # (run, step) pairs as announced.
        self.tickets = 0
        self.calls: list[Call] = []
        self.history: list[Event] = []

    def begin_life(self, actor: Actor) -> None:
        self.lives += 1
        actor.life, actor.doing, actor.run, actor.last_offer = self.lives, "nothing", 0, None

    # ---- What can happen ----------------------------------------------------------------------

    def possible(self, failures: bool) -> list[Event]:
        """Return the possible events; with `failures`, also those that nobody can count on."""
        events: list[Event] = []
        for who, actor in enumerate(self.actors):
            if not actor.alive:
                events += [("revive", who)] * failures
                continue
            if actor.frozen:
                events += [("thaw", who)] * failures
                continue
            place = self.places[actor.place]
            if actor.doing == "computing":
                events += [("offer" if place.batches else "leave", who)] * actor.speed
            elif actor.doing == "waiting":
                events += [("take", who)] * (3 if self.token_for(actor) else 0)
            elif self.ledger.open and actor.run != self.ledger.run:
                events += [("enter", who)] * 3
            if failures:
                events += [("die", who)] * int(self.rng.random() < 0.2)
                events += [("freeze", who)] * int(self.rng.random() < 0.1)
            if failures and actor.last_offer and not place.inbox and self.rng.random() < 0.1:
                events.append(("repeat", who))
        if self.gone().any():
            events += [("expire", 0)] * (3 if failures else 1)
        if self.ledger.open and self.full:
            events += [("update", 0)] * self.haste
            events += [("last_update", 0)] * int(failures and self.rng.random() < 0.3)
        if failures and self.ledger.open and self.rng.random() < 0.05:
            events.append(("close", 0))
        if failures and self.bound == 0 and self.coin.random() < 0.2:
            events += [("resize", 0)] * 2
        if failures and not self.ledger.open:
            events.append(("open", 0))
            events += [("settle", 0)] * int(self.rng.random() < 0.5)
        return events

    def happen(self, event: Event) -> None:
        """Carry out an event."""
        self.history.append(event)
        name, who = event
        if name in ("update", "last_update", "close", "open", "settle", "expire", "resize"):
            getattr(self, name)()
        else:
            getattr(self, name)(who, self.actors[who])
        self.check()

    # ---- Workers ------------------------------------------------------------------------------

    def enter(self, who: int, actor: Actor) -> None:
        """Let a worker ask for a place in the current run, and enter if it gets one."""
        run, before = int(self.ledger.run), int(self.ledger.entries)
        free = self.ledger.life == 0
        mine = ~free & (self.ledger.holder == who)
        numbers = np.arange(self.size)
        self.ledger, place = self.call("admit", numbers, np.int64(who), np.int64(actor.life), run)
        if not free.any() and not mine.any():
            assert place == NO_PLACE
            return
        right = numbers[mine] if mine.any() else numbers[free & (numbers == who)]
        assert place == (right if len(right) else numbers[free])[0]
        actor.run, actor.place, actor.computed = run, int(place), -1
        mine = self.places[actor.place]
        delivered = self.waiting(actor.place)
        self.left.discard(actor.place)
        mine.batches = self.draw_batches()  # A new iterator.
        self.ledger, then = self.call(
            "enter", self.me(actor.place), np.int64(actor.life), run, self.replicas
        )
        assert self.ledger.entries == before + 1
        actor.entry = before + 1
        assert then == (WAIT if delivered or self.full else self.ledger.step)
        mine.awaited = False
        self.act(actor, int(then))

    def offer(self, who: int, actor: Actor) -> None:
        run, step, place = actor.run, actor.step, actor.place
        self.places[place].batches -= run == self.ledger.run
        finite = bool(self.coin.random() < 0.9)
        right, flag = self.right_verdict(actor, run, step, finite)
        actor.last_offer = (run, step)
        verdict, then, complete = self.call_offer(actor, run, step, finite)
        assert (verdict, complete) == (right, flag)
        if verdict == NONFINITE:
            actor.computed = -1  # The random numbers that it drew were dropped with its gradient.
        if verdict == ACCEPTED:
            self.queue.append(Admitted(place, self.tickets, step))
        if run != self.ledger.run or not self.ledger.open:
            assert then == STOP
        elif not self.valid(actor):
            assert (verdict, then) == (DUPLICATE, EXPELLED)
        elif verdict in (STALE, NONFINITE) and not self.full:
            assert then == self.ledger.step
        else:
            assert then == WAIT
        self.act(actor, then)

    def repeat(self, who: int, actor: Actor) -> None:
        """Let the runtime repeat finished work, and offer it a second time."""
        assert actor.last_offer is not None
        run, step = actor.last_offer
        home = run != self.ledger.run or not self.ledger.open
        verdict, then, complete = self.call_offer(actor, run, step)
        again = WAIT if self.valid(actor) else EXPELLED
        assert (verdict, then) == ((STALE, STOP) if home else (DUPLICATE, again))
        assert not complete

    def leave(self, who: int, actor: Actor) -> None:
        run, valid = actor.run, self.valid(actor)
        self.ledger, exhausted = self.call(
            "leave", self.me(actor.place), np.int64(actor.entry), run, self.replicas
        )
        if run == self.ledger.run and self.ledger.open and valid:
            self.left.add(actor.place)
        few = self.size - len(self.left) < self.replicas
        assert exhausted == (few and bool(self.ledger.open))
        self.act(actor, STOP)

    def take(self, who: int, actor: Actor) -> None:
        token = self.token_for(actor)
        assert token is not None
        inbox = self.places[actor.place].inbox
        older = [each for each in inbox if each[0] < actor.entry]
        self.places[actor.place].inbox = [each for each in inbox if each not in older]
        if token[0] > actor.entry:
            self.act(actor, EXPELLED)  # It stays there for the later entry.
        else:
            self.places[actor.place].inbox.remove(token)
            self.act(actor, token[1])

    def token_for(self, actor: Actor) -> tuple[int, int] | None:
        """Return the token that a waiting worker takes; it ignores those of earlier entries."""
        inbox = self.places[actor.place].inbox
        return next((token for token in inbox if token[0] >= actor.entry), None)

    def die(self, who: int, actor: Actor) -> None:
        actor.alive, actor.doing = False, "nothing"

    def revive(self, who: int, actor: Actor) -> None:
        actor.alive, actor.frozen = True, False
        self.begin_life(actor)

    def freeze(self, who: int, actor: Actor) -> None:
        actor.frozen = True

    def thaw(self, who: int, actor: Actor) -> None:
        actor.frozen = False

    def act(self, actor: Actor, then: int) -> None:
        """Let a worker do what it is told."""
        ends = then in (STOP, EXPELLED)
        actor.doing = "waiting" if then == WAIT else "nothing" if ends else "computing"
        if then >= 0:
            assert then > actor.computed  # Otherwise it would draw the same random numbers again.
            actor.computed = then
        actor.step = then
        if then == WAIT and self.valid(actor):
            self.places[actor.place].awaited = True
        if then != WAIT:
            actor.last_offer = None
        if then == EXPELLED:
            actor.run = 0  # It asks for a place again.

    def valid(self, actor: Actor) -> bool:
        """Return whether a worker's entry is still valid."""
        return bool(self.ledger.entry[actor.place] == actor.entry)

    # ---- The chief ----------------------------------------------------------------------------

    def update(self) -> None:
        self.take_from_queue()
        self.ledger, tokens = self.call("advance")
        self.hand_out(tokens, self.ledger.step)
        if protocol.complete(self.ledger, self.replicas):
            self.complete.append((int(self.ledger.run), int(self.ledger.step)))

    def last_update(self) -> None:
        self.take_from_queue()
        self.queue = []
        self.ledger, tokens = self.call("close_run", True)
        self.hand_out(tokens, STOP)

    def take_from_queue(self) -> None:
        """Check that the update uses the N gradients that were accepted first."""
        ledger, made_of = self.ledger, self.queue[: self.replicas]
        assert len({each.place for each in made_of}) == self.replicas
        assert np.flatnonzero(protocol.used(ledger)).tolist() == sorted(e.place for e in made_of)
        for each in made_of:
            staleness = self.updates - each.step
            assert ledger.ticket[each.place] == each.ticket
            assert ledger.staleness[each.place] == staleness
            assert 0 <= staleness <= self.bound
            self.used[each.place] += 1
            self.ages.append(staleness)
        self.queue = self.queue[self.replicas :]
        self.updates += 1
        self.taken += self.replicas
        self.replicas = self.wanted

    def resize(self) -> None:
        """Change how many gradients make an update; a complete step is made of its own."""
        wanted, queued = int(self.coin.integers(1, self.most + 1)), len(self.queue)
        expected = self.replicas if self.full else max(wanted, queued)
        completes = not self.full and queued == expected and bool(self.ledger.open)
        self.ledger, complete = self.call("resize", np.int64(wanted))
        assert (int(self.ledger.replicas), bool(complete)) == (expected, completes)
        self.replicas, self.wanted = expected, wanted
        if complete:
            self.complete.append((int(self.ledger.run), int(self.ledger.step)))

    def close(self) -> None:
        self.ledger, tokens = self.call("close_run", False)
        self.queue = []
        self.hand_out(tokens, STOP)

    def open(self) -> None:
        self.ledger = self.call("open_run", np.int64(self.ledger.step))
        self.left = set()
        for place in self.places:
            place.batches = self.draw_batches()

    def gone(self) -> np.ndarray:
        """Return the places whose holder is dead, frozen or in another life, [places] bool."""
        lives = {actor.life for actor in self.actors if actor.alive and not actor.frozen}
        return np.array([life > 0 and life not in lives for life in self.ledger.life.tolist()])

    def expire(self) -> None:
        gone = self.gone()
        before = self.ledger
        self.ledger, tokens = self.call("expire", gone)
        for number, (place, mine) in enumerate(zip(self.places, tokens.tolist(), strict=True)):
            ends = bool(gone[number]) and not self.waiting(number)
            ends = ends and int(before.status[number]) != LEFT
            told = ends and place.awaited
            assert mine == (EXPELLED if told else WAIT)
            place.inbox += [(int(before.entry[number]), EXPELLED)] * told
            place.awaited &= not ends
            assert not ends or self.ledger.life[number] == 0

    def settle(self) -> None:
        self.ledger = self.call("settle")

    def hand_out(self, tokens: np.ndarray, token: int) -> None:
        """Check and deliver tokens: for places that wait, unless their own gradient is queued."""
        for number, (place, mine) in enumerate(zip(self.places, tokens.tolist(), strict=True)):
            if self.waiting(number):
                assert mine == WAIT
                continue
            assert mine == (token if place.awaited else WAIT)
            place.awaited = False
            place.inbox += [(int(self.ledger.entry[number]), mine)] * (mine != WAIT)

    # ---- What must always hold ----------------------------------------------------------------

    @property
    def useful(self) -> int:
        """Number of places that can contribute to the current run, now or when told to."""
        there = [actor for actor in self.actors if actor.alive and not actor.frozen]
        home = [a for a in there if a.doing == "nothing" and a.run == self.ledger.run]
        # One that waits for a token that a later holder of its place has taken learns from its
        # heartbeats that its lease has ended; those are not modelled here.
        deaf = [
            a
            for a in there
            if a.doing == "waiting" and not self.valid(a) and self.token_for(a) is None
        ]
        able = len(there) - len(home) - len(deaf)
        with_data = sum(p.batches > 0 for n, p in enumerate(self.places) if n not in self.left)
        return min(able, with_data)

    @property
    def full(self) -> bool:
        return len(self.queue) >= self.replicas

    def waiting(self, place: int) -> bool:
        """Return whether a gradient of a place is queued."""
        return any(each.place == place for each in self.queue)

    def check(self) -> None:
        ledger = self.ledger
        delivered = ledger.status == DELIVERED
        under_way = delivered | (ledger.status == COMPUTING)
        ended = ledger.accepted + ledger.late + ledger.stale + ledger.duplicate + ledger.lost
        ended = ended + ledger.nonfinite
        assert (ledger.begun == ended + under_way).all()
        assert all((getattr(ledger, name) >= 0).all() for name in SLOTS)
        assert np.flatnonzero(delivered).tolist() == sorted(each.place for each in self.queue)
        assert (ledger.queued == delivered).all()
        assert self.bound > 0 or len(self.queue) <= self.replicas
        assert ledger.accepted.sum() == self.taken
        assert ledger.replicas == self.replicas
        assert (ledger.accepted == self.used).all()
        assert ledger.step == self.updates
        full = self.full and bool(ledger.open)
        assert protocol.complete(ledger, self.replicas) == full
        now = (int(ledger.run), int(ledger.step))
        left = np.flatnonzero(ledger.status == LEFT).tolist()
        assert not ledger.open or left == sorted(self.left)
        assert not ledger.open or (now in self.complete) == full
        assert len(self.complete) == len(set(self.complete))

    def right_verdict(self, actor: Actor, run: int, step: int, finite: bool) -> tuple[int, bool]:
        """Return the right verdict on an offer, and whether it completes the step."""
        if run != self.ledger.run or not self.ledger.open:
            under_way = self.valid(actor) and self.ledger.status[actor.place] == COMPUTING
            return (NONFINITE if under_way and not finite else STALE), False
        if self.waiting(actor.place) or not self.valid(actor):
            return DUPLICATE, False
        if not finite:
            return NONFINITE, False
        # Its staleness after those before it have been used, N at a time.
        staleness, before = self.updates - step, len(self.queue)
        while before >= self.replicas:
            staleness, before = staleness + 1, before - self.replicas
        if staleness > self.bound:
            return (LATE if step == self.updates else STALE), False
        return ACCEPTED, len(self.queue) + 1 == self.replicas

    # ---- Plumbing -----------------------------------------------------------------------------

    def call_offer(
        self, actor: Actor, run: int, step: int, finite: bool = True
    ) -> tuple[int, int, bool]:
        self.tickets += 1
        me, entry = self.me(actor.place), np.int64(actor.entry)
        self.ledger, verdict, then, complete = self.call(
            "offer", me, entry, run, step, self.tickets, self.replicas, self.bound, np.int64(finite)
        )
        if complete:
            self.complete.append((int(self.ledger.run), int(self.ledger.step)))
        return int(verdict), int(then), bool(complete)

    def call(self, name: str, *args: Any) -> Any:
        result = rule(name)(self.ledger, *args)
        self.calls.append((name, self.ledger, args, result))
        return result

    def me(self, who: int) -> np.ndarray:
        return np.arange(self.size) == who

    def draw_batches(self) -> int:
        return int(self.rng.choice([0, 1, 3, 1000], p=[0.05, 0.1, 0.15, 0.7]))


def play(cluster: Cluster, events: int) -> None:
    """Carry out a number of random events, including failures."""
    for _ in range(events):
        possible = cluster.possible(failures=True)
        if possible:
            cluster.happen(possible[cluster.rng.integers(len(possible))])


def finish_a_step(cluster: Cluster) -> None:
    """Check that a step is completed without further failures, if N workers are useful."""
    wanted = cluster.updates + 1
    for _ in range(100 * cluster.size):
        useful = cluster.useful
        if not cluster.ledger.open or useful < cluster.replicas or cluster.updates == wanted:
            return
        possible = cluster.possible(failures=False)
        assert possible, "deadlock"
        cluster.happen(possible[cluster.rng.integers(len(possible))])
    raise AssertionError("no step is completed")


def schedules(block: int) -> Iterator[Cluster]:
    for number in range(SCHEDULES // BLOCKS):
        yield Cluster(np.random.default_rng([block, number]), BOUNDS[number % len(BOUNDS)])


@pytest.mark.parametrize("block", with_extra(range(BLOCKS), *range(BLOCKS // 2, BLOCKS)))
def test_invariants_hold_under_random_schedules(block: int):
    for number, cluster in enumerate(schedules(block)):
        try:
            play(cluster, EVENTS)
            finish_a_step(cluster)
        except AssertionError as error:
            tale = ", ".join(f"{name} {who}" for name, who in cluster.history)
            of = f"schedule {number}: N = {cluster.replicas} of {cluster.size}, {cluster.bound}"
            raise AssertionError(f"{of}: {tale}: {error}") from error


def test_random_schedules_reach_every_verdict_state_and_event():
    """With tame schedules, the test above would show nothing."""
    seen: set[Any] = set()
    updates, ages = 0, {bound: 0 for bound in BOUNDS}
    for cluster in schedules(0):
        play(cluster, EVENTS)
        updates += cluster.updates
        ages[cluster.bound] = max([ages[cluster.bound], *cluster.ages])
        offers = [call for call in cluster.calls if call[0] == "offer"]
        seen |= {(cluster.bound, int(result[1])) for _, _, _, result in offers}
        seen |= {event for event, _ in cluster.history}
        seen |= {name for name in SLOTS if np.any(getattr(cluster.ledger, name))}
        seen |= {int(status) for status in cluster.ledger.status}
        exhausted = [result[1] for name, _, _, result in cluster.calls if name == "leave"]
        seen |= {"exhausted"} if any(exhausted) else set()
    events = "enter offer repeat leave take die revive freeze thaw expire "
    events += "update last_update close open settle resize"
    states = {protocol.ABSENT, COMPUTING, DELIVERED, WAITING, LEFT}
    verdicts = (ACCEPTED, LATE, STALE, DUPLICATE, NONFINITE)
    # Without a bound none is late: there is room for every gradient of the run.
    every = {(b, v) for b in BOUNDS for v in verdicts} - {(ANY_STALENESS, LATE)}
    every -= {(5, LATE)}  # At most five gradients can be queued before that of one of six workers.
    assert seen == {*events.split(), *SLOTS, *states, "exhausted", *every}
    assert updates > SCHEDULES // BLOCKS
    assert {bound: ages[bound] for bound in BOUNDS[:4]} == {0: 0, 1: 1, 2: 2, 5: 5}
    assert ages[ANY_STALENESS] > 5
    assert {int(result[1]) for _, _, _, result in some_calls("offer")} == set(verdicts)


@functools.cache
def in_tensorflow(name: str, updated: bool | None, workers: int) -> Any:
    """Return a rule as the gate runs it: a `tf.function` of int64 tensors."""
    del workers  # One function for each shape, or TensorFlow would warn about retracing.
    last = () if updated is None else (updated,)
    return tf.function(lambda *args: rule(name)(*args, *last, TENSORS), autograph=False)


def tensors(value: Any) -> Any:
    """Return NumPy arrays and ints as tensors, int64 unless they are bool."""

    def tensor(part: Any) -> Any:
        part = np.asarray(part)
        return tf.constant(part, tf.bool if part.dtype == bool else tf.int64)

    return tf.nest.map_structure(tensor, value)


@functools.cache
def recorded() -> dict[str, list[Call]]:
    """Return calls made by clusters of many sizes, by rule."""
    calls: dict[str, list[Call]] = {}
    for number in range(100):
        cluster = Cluster(np.random.default_rng([99, number]), BOUNDS[number % len(BOUNDS)])
        play(cluster, EVENTS)
        for call in cluster.calls:
            calls.setdefault(call[0], []).append(call)
    return calls


def some_calls(name: str) -> list[Call]:
    """Return some of a rule's calls."""
    calls = recorded()[name]
    chosen = np.random.default_rng(7).permutation(len(calls))[:150]
    return [calls[index] for index in chosen]


@pytest.mark.parametrize(
    "name",
    [
        "admit",
        "enter",
        "offer",
        "leave",
        "expire",
        "open_run",
        "advance",
        "close_run",
        "settle",
        "resize",
    ],
)
def test_rules_on_tensors_equal_rules_on_numpy(name: str):
    calls = some_calls(name)
    assert len(calls) >= 50
    for _, ledger, args, expected in calls:
        updated = args[0] if name == "close_run" else None
        arguments = () if name == "close_run" else tensors(args)
        traced = in_tensorflow(name, updated, len(ledger.status))
        result = traced(tensors(ledger), *arguments)
        tf.nest.assert_same_structure(expected, result)
        pairs = zip(tf.nest.flatten(expected), tf.nest.flatten(result), strict=True)
        for right, mine in pairs:
            right = np.asarray(right)
            assert mine.dtype.as_numpy_dtype == right.dtype
            np.testing.assert_array_equal(mine.numpy(), right)


@pytest.mark.parametrize("name", ["complete", "exhausted"])
def test_questions_on_tensors_equal_questions_on_numpy(name: str):
    answers = []
    for _, ledger, _, _ in some_calls("offer"):
        for replicas in (1, len(ledger.status)):
            mine = getattr(protocol, name)(tensors(ledger), replicas, TENSORS)
            answers.append(bool(mine))
            assert answers[-1] == bool(getattr(protocol, name)(ledger, replicas))
    assert set(answers) == {True, False}
