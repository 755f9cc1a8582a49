"""Real clusters for tests, shared by consecutive tests that want the same size."""

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
    # A shell starts background jobs with Ctrl-C ignored. Programs that tests start and interrupt
    # would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Kept:
    """Cluster of the last test, kept for the next one if it wants the same size."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._local: tf_backup.LocalCluster | None = None

    def get(self, size: tuple[int, int]) -> tf_backup.LocalCluster:
        """Return a cluster of the given size: (workers, parameter servers)."""
        if self._local is None or self._size != size:
            self.stop()
            self._local = tf_backup.LocalCluster(*size)
            self._local.start()
            self._local.strategy()
            self._size = size
        return self._local

    def stop(self) -> None:
        """End the cluster."""
        if self._local is not None:
            self._local.stop()
            self._local = None
            assert not children(), "A process outlives its cluster."


@pytest.fixture(scope="session")
def kept() -> Iterator[Kept]:
    """The cluster that tests share."""
    shared = Kept()
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, kept: Kept) -> tf_backup.LocalCluster:
    """A cluster of the size in the parameter: (workers, ps)."""
    return kept.get(request.param)


@pytest.fixture(scope="module")
def strategy(cluster: tf_backup.LocalCluster) -> Any:
    """The cluster's strategy."""
    return cluster.strategy()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves one of our threads behind."""
    yield
    deadline = time.monotonic() + 5.0  # Work that was cut off takes a moment to end.
    while left := [t.name for t in threading.enumerate() if t.name.startswith("tf_backup")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
