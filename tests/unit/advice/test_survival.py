import numpy as np
import pytest

from tf_backup.advice.survival import ENOUGH, Survival, complete


def test_textbook_example():
    # Six gradients: of those that took longer than 2 s, one was given up at 3 s.
    seconds = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 5.0])
    lost = np.array([False, False, False, True, False, False])
    survival = Survival.of(seconds, lost)
    assert survival.share == pytest.approx([5 / 6, 4 / 6, 3 / 6, 3 / 6, 1 / 4, 0])
    assert survival.beyond == 0


def test_without_lost_ones_it_is_the_share_that_takes_longer():
    survival = Survival.of(np.array([3.0, 1.0, 2.0]), np.zeros(3, bool))
    assert survival.seconds.tolist() == [1.0, 2.0, 3.0]
    assert survival.share == pytest.approx([2 / 3, 1 / 3, 0])


def test_draws_are_longer_and_in_proportion():
    survival = Survival.of(np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4, bool))
    drawn = survival.longer_than(np.full(6000, 1.5), np.random.default_rng(0))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [2.0, 3.0, 4.0]
    assert counts / 6000 == pytest.approx([1 / 3] * 3, abs=0.03)


def test_longer_than_anything_seen():
    survival = Survival.of(np.array([1.0, 2.0, 9.0]), np.array([False, False, True]))
    assert survival.beyond == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    assert survival.longer_than(np.array([9.0, 20.0]), rng).tolist() == [9.0, 20.0]


def test_shorter_than_anything_seen():
    survival = Survival.of(np.array([2.0]), np.array([False]))
    assert survival.longer_than(np.array([1.0]), np.random.default_rng(0)).tolist() == [2.0]


def test_lost_ones_are_drawn_from_their_worker():
    seconds = np.concatenate([np.full(ENOUGH, 2.0), [1.0], np.full(ENOUGH, 8.0), [1.0]])
    lost = seconds == 1.0
    workers = np.repeat([0, 1], ENOUGH + 1)
    done, beyond = complete(seconds, lost, workers, np.random.default_rng(0))
    assert done[lost].tolist() == [2.0, 8.0]
    assert done[~lost].tolist() == seconds[~lost].tolist()
    assert beyond == 0


def test_a_worker_with_few_gradients_is_like_all():
    seconds = np.concatenate([np.full(50, 2.0), [1.0]])
    done, _ = complete(
        seconds, seconds == 1.0, np.repeat([0, 1], [50, 1]), np.random.default_rng(0)
    )
    assert done.tolist() == [2.0] * 51


def test_all_lost():
    seconds = np.array([1.0, 2.0])
    done, beyond = complete(seconds, np.ones(2, bool), np.array([0, 0]), np.random.default_rng(0))
    assert (done >= seconds).all()
    assert beyond == 1.0
