"""The made-up timelines of the tests follow the rules."""

import numpy as np
import pytest

from tests.unit.timelines import timeline
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.timing import simulate
from tf_backup.timeline import schema

POLICIES = [
    BackupPolicy(4),
    BackupPolicy(3, 1),
    BackupPolicy(1, 3),
    BackupPolicy.asynchronous(4),
    BackupPolicy(2, 2, max_staleness=1),
]


def exponential(rng):
    return rng.exponential()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_every_update_uses_n_gradients_of_different_workers(policy):
    made = timeline([exponential] * 4, policy, 300, update_s=0.1, run_length=70)
    assert made.updates["step"].tolist() == list(range(300))
    used = made.contributions[made.contributions["verdict"] == schema.ACCEPTED]
    assert np.bincount(used["update"]).tolist() == [policy.replicas] * 300
    assert len({(row["update"], row["place"]) for row in used}) == len(used)
    staleness = made.staleness
    assert staleness.min() >= 0
    assert policy.max_staleness is None or staleness.max() <= policy.max_staleness


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_workers_compute_one_gradient_at_a_time(policy):
    rows = timeline([exponential] * 4, policy, 300, update_s=0.1).contributions
    for place in range(4):
        mine = np.sort(rows[rows["place"] == place], order="began")
        assert (mine["arrived"] > mine["began"]).all()
        assert (mine["began"][1:] >= mine["arrived"][:-1]).all()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_pace_is_that_of_the_simulator(policy):
    made = timeline([exponential] * 4, policy, 2000, update_s=0.1)
    found = simulate(
        lambda rng, workers: rng.exponential(size=len(workers)), policy, 2000, update_s=0.1
    )
    pace = np.diff(made.updates["released"]).mean() / 1e6
    assert pace == pytest.approx(found.seconds_per_update, rel=0.06)


def test_given_up_gradients_are_lost():
    made = timeline(
        [exponential] * 4,
        BackupPolicy(3, 1),
        200,
        give_up=lambda rng, worker, seconds: 2.0 if seconds > 2.0 else None,
    )
    lost = made.contributions[made.contributions["verdict"] == schema.LOST]
    assert len(lost) > 10
    assert lost["arrived"] - lost["began"] == pytest.approx(2_000_000, abs=1)
    assert set(lost["step"]) == set(lost["compute"]) == {schema.UNKNOWN}
