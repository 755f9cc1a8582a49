"""Rows of a timeline, for random schedules of workers that compute, die, freeze and return."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest

from tests.unit.rules.test_protocol_random import BOUNDS, Cluster, play
from tf_backup.actors.timeline_reader import Resolver
from tf_backup.rules import protocol
from tf_backup.servers.gate_rules import pack
from tf_backup.servers.ledger_changes import (
    FIELDS,
    MADE,
    OFFER,
    OTHER,
    UPDATE,
    LedgerChanges,
)
from tf_backup.timeline.schema import ACCEPTED, DUPLICATE, LOST, UNKNOWN, VERDICTS

EVENTS = 120


def changes_of(cluster: Cluster) -> list[np.ndarray]:
    """Return what the gate logs for each of a cluster's calls, the n-th at n microseconds."""
    found = []
    for time, (name, before, args, result) in enumerate(cluster.calls, start=1):
        after = result if isinstance(result, protocol.Ledger) else result[0]
        places = np.arange(cluster.size)
        head = [time, OTHER, 0, 0, 0]
        if name == "offer":
            places = np.flatnonzero(args[0])
            head = [time, OFFER, int(args[2]), int(args[3]), 7]
        elif name == "advance" or (name == "close_run" and args[0]):
            head = [time, MADE, -1, -1, -1]
        heads = np.insert(np.tile(head, [len(places), 1]), 2, places, axis=1)
        columns = [pack(ledger)[:, places].T for ledger in (before, after)]
        found.append(np.concatenate([heads, *columns], axis=1).astype(np.int64))
    return found


def rows_of(cluster: Cluster, seed: int) -> np.ndarray:
    """Return the rows of a cluster's calls, read a few calls at a time."""
    rng, changes = np.random.default_rng(seed), LedgerChanges(cluster.size)
    rows, waiting = [np.zeros([0, FIELDS], np.int64)], changes_of(cluster)
    while waiting:
        count = int(rng.integers(1, 9))
        rows.append(changes.rows(np.concatenate(waiting[:count])))
        del waiting[:count]
    assert not changes.unknown
    return np.concatenate(rows)


@functools.cache
def resolved(number: int) -> tuple[Cluster, np.ndarray, np.ndarray]:
    """Return a cluster after a random schedule, and its timeline: contributions and updates."""
    cluster = Cluster(np.random.default_rng([5, number]), BOUNDS[number % len(BOUNDS)])
    play(cluster, EVENTS)
    return cluster, *Resolver().resolve(rows_of(cluster, number))


@pytest.mark.parametrize("number", range(20))
def test_rows_add_up_to_the_ledger(number: int) -> None:
    cluster, contributions, updates = resolved(number)
    for place in range(cluster.size):
        mine = contributions[contributions["place"] == place]
        counted = Counter(VERDICTS[verdict] for verdict in mine["verdict"])
        expected = {name: int(getattr(cluster.ledger, name)[place]) for name in VERDICTS}
        assert {name: counted[name] for name in VERDICTS} == expected
    assert updates["step"].tolist() == list(range(cluster.updates))
    used = contributions[contributions["verdict"] == ACCEPTED]
    assert len(used) == cluster.taken
    assert sorted((used["update"] - used["step"]).tolist()) == sorted(cluster.ages)
    timed = contributions[contributions["verdict"] != DUPLICATE]
    assert (timed["began"] > 0).all()
    assert (timed["began"] < timed["arrived"]).all()
    known = contributions[contributions["verdict"] != LOST]
    assert (known["step"] >= 0).all()


def test_schedules_reach_every_verdict() -> None:
    """With tame schedules, the test above would show nothing."""
    seen: set[int] = set()
    for number in range(20):
        _, contributions, _ = resolved(number)
        seen |= set(contributions["verdict"].tolist())
        lost = contributions[contributions["verdict"] == LOST]
        assert (lost["update"] == UNKNOWN).all()
    assert seen == set(range(len(VERDICTS)))


@pytest.mark.parametrize("number", range(20))
def test_if_changes_are_dropped_no_row_has_a_wrong_beginning(number: int) -> None:
    """Any may be: one for each place needs more room in the queue than a single one."""
    cluster = resolved(number)[0]
    whole = {(row[1], row[4]): row for row in rows_of(cluster, number).tolist() if row[0] != UPDATE}
    rng, changes = np.random.default_rng([6, number]), LedgerChanges(cluster.size)
    calls = [call for call in changes_of(cluster) if rng.random() < 0.7]
    rows = [row for row in changes.rows(np.concatenate(calls)).tolist() if row[0] != UPDATE]
    assert 0 < len(rows) < len(whole)
    for row in rows:
        assert row == whole[row[1], row[4]]
    # A row of each call that is there is found or counted.
    times = {int(call[0, 0]) for call in calls}
    assert len(rows) + changes.unknown == sum(time in times for time, _ in whole)
