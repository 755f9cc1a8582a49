import math

import numpy as np
import pytest

from tests.extra import extra
from tests.unit.timelines import timeline
from tf_backup.advice.recommend import recommend
from tf_backup.advice.resampling import Blocks, fastest, interval
from tf_backup.policy import BackupPolicy

WORKERS = 5


def exponential(rng):
    return rng.exponential()


def slow(rng):
    return 1.5 + rng.exponential()


def true_gradients_per_s(draws, updates=4000):
    """Return [splits] N over the time per update, from long trainings."""
    pace = []
    for replicas in range(1, len(draws) + 1):
        policy = BackupPolicy(replicas, len(draws) - replicas)
        released = timeline(draws, policy, updates, seed=123).updates["released"]
        pace.append(replicas * 1e6 / np.diff(released).mean())
    return np.array(pace)


@pytest.mark.parametrize(
    "draws", [[exponential] * 5, [exponential] * 4 + [slow]], ids=["alike", "slow"]
)
def test_interval_holds_the_true_gain_as_often_as_it_says(draws):
    rates = true_gradients_per_s(draws)
    held, right, sure = [], [], []
    for seed in range(80):
        advice = recommend(timeline(draws, BackupPolicy(WORKERS), 150, seed=seed))
        low, high = advice.gain_interval
        held.append(low <= rates[advice.replicas - 1] / rates[-1] - 1 <= high)
        right.append(advice.replicas == np.argmax(rates) + 1)
        sure.append(advice.confidence)
    assert 0.8 <= np.mean(held) <= 0.99  # Of 0.9, with 80 trials.
    assert abs(np.mean(sure) - np.mean(right)) < 0.2


@extra
@pytest.mark.parametrize(
    ("shape", "least", "most"),
    [
        (3.0, 0.85, 0.96),  # 183 of 200 when last measured.
        (1.5, 0.75, 0.89),  # 164: the variance is infinite.
    ],
)
def test_interval_of_heavy_tails_holds_the_true_gain_as_often_as_the_page_says(shape, least, most):
    draws = [lambda rng: 1 + rng.pareto(shape)] * WORKERS
    rates = true_gradients_per_s(draws, 40_000)
    # With N = 5 and no backups, the time of an update is the mean of the largest of five.
    gamma = math.gamma
    largest = gamma(6) * gamma(1 - 1 / shape) / gamma(6 - 1 / shape)
    assert rates[-1] == pytest.approx(WORKERS / largest, rel=0.02)
    rates[-1] = WORKERS / largest
    held, missed = [], []
    for seed in range(200):
        advice = recommend(timeline(draws, BackupPolicy(WORKERS), 150, seed=seed))
        (low, high), gain = advice.gain_interval, rates[advice.replicas - 1] / rates[-1] - 1
        held.append(low <= gain <= high)
        missed += [gain > high] * (not held[-1])
    assert least <= np.mean(held) <= most
    assert np.mean(missed) > 0.7  # The true gain is larger then.


def test_a_higher_level_gives_a_wider_interval():
    made = timeline([exponential] * 4, BackupPolicy(4), 150)
    narrow, wide = (recommend(made, level=level).gain_interval for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_more_updates_make_more_sure():
    few, many = (
        recommend(timeline([exponential] * 4, BackupPolicy(4), updates)).gain_interval
        for updates in (100, 1600)
    )
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])


def correlated(rng, count):
    """Return steps whose slowness lasts for about 20 of them."""
    noise, steps = rng.normal(size=count), np.empty(count)
    level = 0.0
    for i in range(count):
        level = 0.95 * level + noise[i] * 0.3
        steps[i] = np.exp(level)
    return steps


def test_blocks_keep_slowness_that_lasts():
    rng = np.random.default_rng(0)
    means = [correlated(rng, 1024).mean() for _ in range(60)]
    steps = correlated(rng, 1024)
    spread = {}
    for length in (1, 64):
        cut = steps.reshape(-1, length, 1)
        blocks = Blocks.of(cut, cut[:, :, 0])
        spread[length] = blocks.resample(rng).std()
    assert spread[64] > 2.5 * spread[1]
    assert 0.5 * np.std(means) < spread[64] < 1.5 * np.std(means)


def test_slow_stretches_count_by_the_updates_made_there():
    # The run takes 1 s and 4 s per step. A split that takes 1 s throughout makes four updates where
    # the run makes one.
    run = np.repeat([1.0, 4.0], 1000).reshape(20, 100)
    other = np.repeat([0.5, 1.0], 1000).reshape(20, 100)
    blocks = Blocks.of(np.stack([run, other], axis=-1), run)
    made = 1000 / 0.5 + 4000 / 1.0
    assert blocks.mean() == pytest.approx([2.5, 5000 / made], rel=0.01)


def test_fastest_prefers_more_gradients_at_equal_times():
    assert fastest(np.array([3.0, 1.0, 1.0 + 1e-9, 2.0])) == 2
    assert fastest(np.array([[np.nan, 2.0, 3.0], [1.0, 2.0, 0.5]])).tolist() == [1, 2]


def test_interval():
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
