"""Rows of the gate's log, for random schedules of workers that compute, die, freeze and return."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.test_protocol_random import BOUNDS, Cluster, play
from tf_backup.actors.timeline_reader import Resolver
from tf_backup.rules import protocol
from tf_backup.servers import arrival_log
from tf_backup.servers.arrival_log import FIELDS, UPDATE
from tf_backup.servers.gate_rules import pack
from tf_backup.timeline.schema import ACCEPTED, DUPLICATE, LOST, UNKNOWN, VERDICTS

EVENTS = 120


@functools.cache
def traced(places: int) -> Any:
    """Return `arrival_log.compared` as a function of tensors, for a number of places."""
    ledger = tf.TensorSpec([len(protocol.Ledger._fields), places], tf.int64)
    vector = tf.TensorSpec([places + 1], tf.int64)
    number = tf.TensorSpec([], tf.int64)
    specs = [ledger, ledger, tf.TensorSpec([4], tf.int64), vector, number]
    return tf.function(arrival_log.compared, input_signature=specs, autograph=False)


def rows_of(cluster: Cluster) -> np.ndarray:
    """Return the rows that the gate logs for a cluster's calls, the n-th at n microseconds."""
    compared = traced(cluster.size)
    state: Any = tf.zeros([cluster.size + 1], tf.int64)
    rows = [np.zeros([0, FIELDS], np.int64)]
    for time, (name, before, args, result) in enumerate(cluster.calls, start=1):
        after = result if isinstance(result, protocol.Ledger) else result[0]
        offer = [-1, -1, -1, -1]
        if name == "offer":
            place = int(np.flatnonzero(args[0])[0])
            offer = [place, int(args[2]), int(args[3]), 7]
        packed = (tf.constant(pack(ledger), tf.int64) for ledger in (before, after))
        more, state = compared(*packed, tf.constant(offer, tf.int64), state, np.int64(time))
        rows.append(more.numpy())
        if name == "advance" or (name == "close_run" and args[0]):
            step = int(before.step)
            rows.append(np.array([[UPDATE, time, -1, step, -1, -1, int(before.run), 0, 0]]))
    return np.concatenate(rows)


@functools.cache
def resolved(number: int) -> tuple[Cluster, np.ndarray, np.ndarray]:
    """Return a cluster after a random schedule, and its timeline: contributions and updates."""
    cluster = Cluster(np.random.default_rng([5, number]), BOUNDS[number % len(BOUNDS)])
    play(cluster, EVENTS)
    return cluster, *Resolver().resolve(rows_of(cluster))


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


def row(code: int, time: int, step: int, place: int, due: int = -1) -> list[int]:
    return [code, time, time - 5, step, place, place + 10, due, 3, 1]


def test_a_delivered_gradient_is_accepted_by_its_update() -> None:
    resolver = Resolver()
    contributions, updates = resolver.resolve([row(ACCEPTED, 10, 4, 0, due=5)])
    assert (len(contributions), len(updates)) == (0, 0)
    contributions, updates = resolver.resolve([[UPDATE, 20, 15, 4, 16, 17, 1, 0, 0]])
    assert (len(contributions), len(updates)) == (0, 1)
    assert updates[0].tolist() == (1, 4, 15, 16, 17, 20)
    contributions, _ = resolver.resolve([[UPDATE, 30, 25, 5, 26, 27, 1, 0, 0]])
    assert contributions[0].tolist() == (1, 4, 5, 10, 0, ACCEPTED, 5, 10, 3)


def test_a_delivered_gradient_is_stale_if_its_run_ends() -> None:
    resolver = Resolver()
    resolver.resolve([row(ACCEPTED, 10, 4, 0, due=4)])
    contributions, _ = resolver.resolve([row(protocol.STALE, 50, 4, 0)])
    (mine,) = contributions
    assert (mine["verdict"], mine["arrived"]) == (protocol.STALE, 10)


def test_rows_that_were_dropped_leave_nothing_behind() -> None:
    resolver = Resolver()
    resolver.resolve([row(ACCEPTED, 10, 4, 0, due=4)])  # The row of its update was dropped.
    contributions, _ = resolver.resolve([[UPDATE, 30, 25, 5, 26, 27, 1, 0, 0]])
    assert not len(contributions)
    assert not resolver._delivered
