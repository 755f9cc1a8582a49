import numpy as np
import pytest

from tf_backup.advice import replay as module
from tf_backup.advice.replay import order_statistics, replay
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.timing import simulate

WORKERS = 5


def constant(rng, workers):
    return 1.0 + workers * 0.37


def exponential(rng, workers):
    return rng.exponential(size=len(workers))


def unlike(rng, workers):
    return (1.0 + workers) * (1.0 + rng.exponential(0.2, len(workers)))


def heavy(rng, workers):
    return 1.0 + 0.2 * rng.pareto(2.5, len(workers))


def table(draw, rows):
    rng = np.random.default_rng(0)
    return draw(rng, np.tile(np.arange(WORKERS), rows)).reshape(rows, WORKERS)


@pytest.mark.parametrize("draw", [constant, exponential, unlike, heavy])
def test_replay_follows_the_rules_of_the_gate(draw):
    found = replay(table(draw, 4000), update_s=0.1)
    for replicas in range(1, WORKERS + 1):
        policy = BackupPolicy(replicas, WORKERS - replicas)
        expected = simulate(draw, policy, 1500, update_s=0.1, warmup=50)
        seconds = found.seconds[:, :, replicas - 1].mean()
        close = {"rel": 1e-3} if draw is constant else {"rel": 0.05}
        assert seconds == pytest.approx(expected.seconds_per_update, **close)
        wasted = 1 - replicas / found.begun[replicas - 1]
        assert wasted == pytest.approx(expected.wasted, abs=0.01)


def test_no_backups_is_the_slowest_of_each_step():
    seconds = table(exponential, 100)
    found = replay(seconds, update_s=0.5)
    steps = found.seconds[:, :, -1]
    assert steps == pytest.approx(seconds.max(axis=1)[found.rows] + 0.5)


def test_every_row_is_replayed_once():
    assert np.bincount(replay(table(constant, 100), 0.0).rows.ravel()).tolist() == [1] * 100


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_few_rows(rows):
    found = replay(np.ones([rows, 2]), update_s=0.0)
    assert found.seconds == pytest.approx(1.0)


def test_long_timelines_are_thinned(monkeypatch):
    seconds = table(exponential, 4000)
    every = replay(seconds, 0.0)
    monkeypatch.setattr(module, "_MOST_WORK", 30_000)
    some = replay(seconds, 0.0)
    assert len(some.rows) < len(every.rows) / 2
    means = [found.seconds.mean(axis=(0, 1)) for found in (some, every)]
    assert means[0] == pytest.approx(means[1], rel=0.1)


def test_order_statistics():
    seconds = np.array([[3.0, 1.0, 2.0], [1.0, 5.0, 3.0]])
    assert order_statistics(seconds).tolist() == [1.0, 2.5, 4.0]
