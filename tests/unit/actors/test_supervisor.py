"""Housekeeping of a run, on ledgers that are made up: who is ended, and what is said and raised."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tf_backup.actors import supervisor as module
from tf_backup.actors.supervisor import Supervisor
from tf_backup.errors import NonFiniteGradients
from tf_backup.policy import BackupPolicy
from tf_backup.rules import protocol
from tf_backup.rules.protocol import COMPUTING, DELIVERED, LEFT, Ledger
from tf_backup.servers.gate_rules import pack

WORKERS = 3
POLICY = BackupPolicy(2, 1)


class Cluster:
    """A gate and a coordinator that note what they are told, and a clock."""

    def __init__(self, policy: BackupPolicy = POLICY, chooser: Any = None) -> None:
        self.policy = policy
        self.calls: list[tuple[str, Any]] = []
        self.reported: list[dict[str, Any]] = []
        self.now = 1000.0
        self.members = SimpleNamespace(silent=[], ever=[True] * WORKERS, newest=100 + WORKERS)
        self.alive(0, 1, 2)
        self.ledger = protocol.new_ledger(WORKERS, policy.replicas)._replace(
            open=np.int64(1),
            holder=np.arange(WORKERS),
            life=np.arange(101, 101 + WORKERS),
            status=np.full([WORKERS], COMPUTING),
        )
        self.addresses = {"worker": [f"host{worker}:80" for worker in range(WORKERS)]}
        self.supervisor = Supervisor(self, self, SimpleNamespace(read=lambda: None), chooser)

    def alive(self, *workers: int) -> None:
        lives = [101 + worker if worker in workers else 0 for worker in range(WORKERS)]
        self.members.lives, self.members.living = lives, len(workers)
        self.members.missing = [worker for worker in range(WORKERS) if worker not in workers]

    def with_counts(self, **counts: Sequence[int]) -> Ledger:
        """Return the ledger with other vectors."""
        values = {name: np.array(value, np.int64) for name, value in counts.items()}
        return self.ledger._replace(**values)

    # As a gate and as a coordinator:

    def tick(self) -> Any:
        return SimpleNamespace(numpy=lambda: pack(self.ledger))

    def expire(self, gone: Any) -> None:
        self.calls.append(("expire", gone.numpy().tolist()))

    def resize(self, wanted: Any) -> None:
        self.calls.append(("resize", int(wanted)))

    def set_quota(self, quota: Any) -> None:
        self.calls.append(("set_quota", int(quota)))

    def worker_errors(self) -> list[dict[str, Any]]:
        return self.reported


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test advances; whoever sleeps advances it, too."""
    clock = SimpleNamespace(now=1000.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger=module.__name__)
    return caplog


# ---- Workers -----------------------------------------------------------------------------------


def test_nothing_is_done_while_all_are_there(logged: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    ledger = cluster.supervisor.look_after()
    assert ledger.life.tolist() == [101, 102, 103]
    assert (cluster.calls, logged.messages) == ([], [])


def test_lost_and_restarted_workers_lose_their_places(logged: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    cluster.alive(0, 2)
    cluster.members.lives[2] = cluster.members.newest = 999
    cluster.supervisor.look_after()
    assert cluster.calls == [("expire", [0, 102, 103])]
    assert logged.messages == ["Lost worker 1 (host1:80). 2 workers are left; an update takes 2."]
    cluster.supervisor.look_after()
    assert len(logged.messages) == 1
    cluster.alive(0, 1, 2)
    cluster.supervisor.look_after()
    assert logged.messages[1:] == ["Worker 1 (host1:80) is back."]


@pytest.mark.parametrize("before", [0, 103])
def test_a_life_that_the_chief_has_yet_to_see_keeps_its_place(before: int) -> None:
    """A restarted worker was expelled if it got a place between two looks at the board."""
    cluster = Cluster()
    cluster.ledger = cluster.with_counts(life=[101, 102, 104])
    cluster.members.lives[2] = before
    cluster.supervisor.look_after()
    assert cluster.calls == []
    cluster.members.lives[2] = cluster.members.newest = 104
    cluster.supervisor.look_after()
    assert cluster.calls == []
    cluster.members.lives[2] = 0
    cluster.supervisor.look_after()
    assert cluster.calls == [("expire", [0, 0, 104])]


def test_who_has_never_come_is_not_lost(logged: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    cluster.members.ever = [True, True, False]
    cluster.alive(0, 1)
    cluster.supervisor.look_after()
    assert logged.messages == []


@pytest.mark.parametrize(
    ("policy", "call"),
    [
        (BackupPolicy(3, least_replicas=1), ("resize", 1)),
        (BackupPolicy(3, least_replicas=2), ("resize", 2)),
        (BackupPolicy(3, fill=True), ("set_quota", 3)),
    ],
)
def test_updates_change_with_the_workers_if_they_may(
    policy: BackupPolicy, call: tuple[str, int], logged: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(policy)
    cluster.alive(1)
    cluster.supervisor.look_after()
    assert cluster.calls[1:] == [call]
    assert any("1 workers are alive" in message for message in logged.messages)


def test_workers_get_time_to_arrive(clock: SimpleNamespace) -> None:
    cluster = Cluster(BackupPolicy(3, least_replicas=1))
    cluster.members.ever = [True, False, False]
    cluster.ledger = cluster.with_counts(life=[101, 0, 0])
    cluster.alive(0)
    cluster.supervisor.look_after()
    assert cluster.calls == []
    clock.now += module._ARRIVAL_S + 1
    cluster.supervisor.look_after()
    assert cluster.calls == [("resize", 1)]


def test_n_follows_the_one_who_chooses_it(logged: pytest.LogCaptureFixture) -> None:
    policy = BackupPolicy(3, least_replicas=1, auto=True)
    cluster = Cluster(policy, SimpleNamespace(replicas=2))
    cluster.supervisor.look_after()
    assert cluster.calls == [("resize", 2)]
    assert logged.messages == []


# ---- The end of training ----------------------------------------------------------------------


def test_the_end_waits_for_those_who_still_compute(
    clock: SimpleNamespace, logged: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    cluster.supervisor.await_last_batches(30.0)
    assert clock.now == pytest.approx(1030, abs=1)
    assert "Worker(s) 0, 1, 2 have not finished" in logged.messages[-1]


def test_the_end_does_not_wait_for_the_silent_and_the_failed(clock: SimpleNamespace) -> None:
    cluster = Cluster()
    cluster.ledger = cluster.with_counts(status=[COMPUTING, COMPUTING, DELIVERED])
    cluster.members.silent = [0]
    cluster.reported = [{"worker": 1}]
    cluster.supervisor.await_last_batches(30.0)
    assert clock.now == 1000


# ---- NaN and Inf -------------------------------------------------------------------------------

MANY = module._NONFINITE_IN_A_STEP


def test_a_step_that_cannot_be_completed_is_an_error() -> None:
    cluster = Cluster()
    cluster.supervisor.check_finite(cluster.ledger)
    cluster.supervisor.check_finite(cluster.with_counts(nonfinite=[MANY - 1, MANY, 0]))
    with pytest.raises(NonFiniteGradients, match=r"worker\(s\) 0, 1 have NaN or Inf: 20 were"):
        cluster.supervisor.check_finite(cluster.with_counts(nonfinite=[MANY, MANY, 0]))


def test_dropped_gradients_of_earlier_steps_do_not_count() -> None:
    cluster = Cluster()
    ledger = cluster.with_counts(nonfinite=[MANY, MANY, 0])
    for step in range(3):
        more = ledger._replace(step=np.int64(step), nonfinite=ledger.nonfinite * (step + 1))
        cluster.supervisor.check_finite(more)


def test_a_gradient_that_is_finite_is_a_new_beginning() -> None:
    cluster = Cluster()
    cluster.supervisor.check_finite(cluster.ledger)
    one = cluster.with_counts(nonfinite=[MANY, MANY - 1, 0], queued=[0, 1, 0])
    cluster.supervisor.check_finite(one)
    cluster.supervisor.check_finite(one._replace(nonfinite=np.int64([MANY, MANY + 1, 0])))


def test_a_missing_worker_may_come_back_in_time(clock: SimpleNamespace) -> None:
    cluster = Cluster()
    cluster.supervisor.check_finite(cluster.ledger)
    dropped = cluster.with_counts(nonfinite=[MANY, 0, 0], life=[101, 102, 0])
    cluster.supervisor.check_finite(dropped)
    clock.now += module._RETURN_S - 1
    cluster.supervisor.check_finite(dropped)
    clock.now += 2
    with pytest.raises(NonFiniteGradients):
        cluster.supervisor.check_finite(dropped)


def test_who_has_no_more_data_helps_no_update(clock: SimpleNamespace) -> None:
    cluster = Cluster()
    cluster.supervisor.check_finite(cluster.ledger)
    dropped = cluster.with_counts(nonfinite=[MANY, 0, 0], status=[COMPUTING, DELIVERED, LEFT])
    cluster.supervisor.check_finite(dropped._replace(queued=np.int64([0, 0, 1])))


def test_a_run_that_made_nothing_but_nan_is_an_error() -> None:
    cluster = Cluster()
    before = cluster.ledger
    cluster.supervisor.check_ended(before, cluster.with_counts(nonfinite=[1, 0, 0]))
    with pytest.raises(NonFiniteGradients, match="without an update: 2 gradients were dropped"):
        cluster.supervisor.check_ended(before, cluster.with_counts(nonfinite=[1, 0, 1]))


def test_dropped_gradients_are_told_now_and_then(
    clock: SimpleNamespace, logged: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    tell = cluster.supervisor.report_nonfinite
    tell(cluster.with_counts(nonfinite=[2, 0, 1]))
    assert logged.messages == ["Dropped 3 gradient(s) with NaN or Inf, of worker(s) 0 (2), 2 (1)."]
    more = cluster.with_counts(nonfinite=[3, 0, 1])
    tell(more)
    assert len(logged.messages) == 1
    tell(more, at_once=True)
    tell(more, at_once=True)
    assert logged.messages[1:] == ["Dropped 1 gradient(s) with NaN or Inf, of worker(s) 0 (1)."]


# ---- Slow steps --------------------------------------------------------------------------------


def test_a_slow_step_is_explained(logged: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    cluster.alive(0, 1)
    cluster.members.silent = [1, 2]
    ledger = cluster.with_counts(queued=[0, 0, 1])
    cluster.supervisor.explain(5, 20.4, ledger)
    assert logged.messages == [
        "Step 5 takes 20 s: 1 of 2 gradients are in; worker(s) 0 computing; not heard of: worker 1 "
        "(host1:80); missing: worker 2 (host2:80)."
    ]
