"""Real clusters for tests, started once for all tests that want the same one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.processes import children

tf.config.threading.set_intra_op_parallelism_threads(1)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored. The programs that tests start and then
    # interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[tf_backup.LocalCluster]:
    """A cluster of as many workers and parameter servers as the parameter says: (workers, ps)."""
    workers, ps = request.param
    with tf_backup.LocalCluster(workers=workers, ps=ps) as local:
        local.strategy()
        yield local
    assert not children(), "A process outlives its cluster."


@pytest.fixture
def strategy(cluster: tf_backup.LocalCluster) -> Any:
    """The cluster's strategy."""
    return cluster.strategy()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fails a test that leaves a thread of ours behind."""
    yield
    deadline = time.monotonic() + 5.0  # What was cut off takes a moment to end.
    while left := [t.name for t in threading.enumerate() if t.name.startswith("tf_backup")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
