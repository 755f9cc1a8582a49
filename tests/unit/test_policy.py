import dataclasses
import itertools

import numpy as np
import pytest

from tf_backup.policy import BackupPolicy


def test_workers_are_replicas_and_backups():
    policy = BackupPolicy(replicas=6, backups=2)
    assert (policy.replicas, policy.backups, policy.workers) == (6, 2, 8)


def test_no_backups_unless_asked_for():
    assert BackupPolicy(3) == BackupPolicy(3, 0)
    assert BackupPolicy(1).workers == 1


def test_gradients_are_fresh_unless_asked_otherwise():
    assert BackupPolicy(3, 1).max_staleness == 0
    assert BackupPolicy(3, 1, max_staleness=None) != BackupPolicy(3, 1)


def test_asynchronous_makes_every_gradient_an_update():
    assert BackupPolicy.asynchronous(8) == BackupPolicy(1, 7, max_staleness=None)
    assert BackupPolicy.asynchronous(8, max_staleness=4) == BackupPolicy(1, 7, 4)
    assert BackupPolicy.asynchronous(1).workers == 1
    with pytest.raises(ValueError, match=r"workers is 0; it must be at least 1\."):
        BackupPolicy.asynchronous(0)


def test_policy_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BackupPolicy(1).replicas = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "replicas is 0; it must be at least 1."),
        ((-3, 0), "replicas is -3; it must be at least 1."),
        ((1, -1), "backups is -1; it must be at least 0."),
        ((1, 1, -1), "max_staleness is -1; it must be at least 0."),
    ],
)
def test_out_of_range_is_refused(arguments: tuple[int, ...], message: str):
    with pytest.raises(ValueError) as error:
        BackupPolicy(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(
            ("replicas", "backups", "max_staleness"), (True, 2.0, "2", np.float32(2))
        ),
        ("replicas", None),
        ("backups", None),
    ],
)
def test_what_is_no_int_is_refused(name: str, value: object):
    with pytest.raises(TypeError) as error:
        BackupPolicy(**{"replicas": 1, name: value})  # type: ignore[arg-type]
    assert str(error.value) == f"{name} must be an int, not {value!r} ({type(value).__name__})."


def test_numpys_integers_are_ints():
    policy = BackupPolicy(np.int64(2), np.int32(1), np.uint8(3))  # type: ignore[arg-type]
    assert policy == BackupPolicy(2, 1, 3)
    numbers = (policy.replicas, policy.backups, policy.max_staleness)
    assert all(type(number) is int for number in numbers)


@pytest.mark.parametrize("workers", [8, 9])
def test_cluster_that_is_large_enough_is_accepted(workers: int):
    BackupPolicy(6, 2).check_cluster(workers)


def test_cluster_that_is_too_small_is_refused_with_the_remedy():
    with pytest.raises(ValueError) as error:
        BackupPolicy(6, 2).check_cluster(5)
    for part in ("replicas (6) + backups (2)", "the 5 worker(s)", "Start 3 more worker(s)"):
        assert part in str(error.value)
