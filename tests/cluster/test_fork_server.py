"""Process that local clusters fork their tasks from."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

import tf_backup
from tests.cluster.processes import children, running, wait_until
from tf_backup.network.status import ask


def test_tasks_outlive_it_but_none_can_be_started_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with tf_backup.LocalCluster(workers=2, ps=1) as local:
        server = psutil.Process(local.pid("ps", 0)).ppid()
        local.kill_task("worker", 0)
        local.start_task("worker", 0)
        tasks = [local.pid(job, index) for job, index in (("worker", 0), ("worker", 1), ("ps", 0))]
        assert set(tasks) <= set(children())  # A cluster that tests share may run, too.

        with pytest.raises(tf_backup.ClusterError, match=r"worker 0 \(.*\) runs already"):
            local.start_task("worker", 0)
        with pytest.raises(ValueError, match="there is no worker 2: the cluster has"):
            local.kill_task("worker", 2)

        monkeypatch.setattr(local._fork_server, "_patience_s", 0.2)
        local.kill_task("worker", 0)
        local.kill_task("worker", 0)
        os.kill(server, signal.SIGSTOP)
        with pytest.raises(
            tf_backup.ClusterError, match=r"has not answered .* no task can be star"
        ):
            local.start_task("worker", 0)
        wait_until(lambda: not running(server))
        with pytest.raises(tf_backup.ClusterError, match="has ended"):
            local.start_task("worker", 0)
        assert ask(local.config.addresses["ps"][0]) is not None
    wait_until(lambda: not any(map(running, tasks)), timeout_s=10)


def test_a_cluster_that_was_not_started() -> None:
    local = tf_backup.LocalCluster(workers=1, ps=1)
    local.stop()
    for call in (local.pid, local.kill_task, local.start_task):
        with pytest.raises(tf_backup.ClusterError, match="The cluster has not been started"):
            call("ps", 0)
    with pytest.raises(tf_backup.ClusterError, match="The cluster has not been started"):
        local.strategy()
