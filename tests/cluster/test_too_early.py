"""What happens before a script has its strategy: objects that it makes, and the environment."""

from __future__ import annotations

import pytest

from tests.cluster.processes import start

pytestmark = pytest.mark.long

BEFORE = "ValueError: Something that is used here was made before the strategy: a layer or metric"
EXPECTED = {
    "tensors": "works",
    "data set": "works",
    "predicted data set": BEFORE,
    "layer with a seed": BEFORE,
    "metric": "'mean_absolute_error' was created outside the strategy's scope. Create it inside",
    "optimizer": "ValueError: The optimizer was created outside the strategy's scope",
}


def test_what_is_made_before_the_strategy() -> None:
    out, log = start("-m", "tests.cluster.programs.too_early").communicate(timeout=120)
    said = dict(line.split(": ", 1) for line in out.splitlines())
    assert list(said) == list(EXPECTED), log[-3000:]
    for name, expected in EXPECTED.items():
        assert expected in said[name]


CHIEF = """
import os
from tf_backup.network import status

before, channel = set(), status.grpc.insecure_channel


def noted(*args, **options):
    before or before.update(os.environ)
    return channel(*args, **options)


status.grpc.insecure_channel = noted
import tf_backup

with tf_backup.LocalCluster(1) as local:
    local.strategy()
    print(len(before) > 0, sorted(set(os.environ) - before))
"""


def test_the_environment_is_complete_before_grpc_reads_it() -> None:
    """Regression: to add a variable while a thread of gRPC reads one crashed the process."""
    out, log = start("-c", CHIEF).communicate(timeout=120)
    assert out == "True []\n", log[-3000:]


# As on a machine with one core, where TensorFlow runs one operation at a time.
ONE_CORE = """
import os, sys

os.environ["TF_NUM_INTEROP_THREADS"] = "1"
import keras
import numpy as np
import tensorflow as tf
import tf_backup

if sys.argv[1:]:
    tf.zeros([])
with tf_backup.LocalCluster(1) as local, local.strategy().scope():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile(tf_backup.wrap(keras.optimizers.SGD(), replicas=1), "mse")
    model.fit(np.ones([4, 2]), np.ones([4, 1]), batch_size=2, verbose=0)
    print(model.optimizer.contributions.total.accepted)
"""


def test_a_machine_with_one_core() -> None:
    """Regression: the first call of `fit` to a server waited for ever."""
    out, log = start("-c", ONE_CORE).communicate(timeout=120)
    assert out == "2\n", log[-3000:]


def test_a_machine_with_one_core_where_tensorflow_was_used_before() -> None:
    out, log = start("-c", ONE_CORE, "used").communicate(timeout=120)
    assert not out
    assert "ClusterError: TensorFlow runs one operation at a time in this process" in log
