"""Strategy of the cluster that a script is part of, or of a local cluster."""

from __future__ import annotations

import atexit
import logging
from typing import Any

from tf_backup._tf import grpc_environment
from tf_backup.actors import coordinator
from tf_backup.cluster import dismissal, exposure, tf_config
from tf_backup.cluster.connection import DEFAULT_TIMEOUT_S, Timeouts, connect, forget
from tf_backup.cluster.local_cluster import (
    DEFAULT_WORKER_RESTARTS,
    START_TIMEOUT_S,
    LocalCluster,
)
from tf_backup.cluster.server import CHIEF_TIMEOUT_S, serve
from tf_backup.network import arrivals

log = logging.getLogger(__name__)

_state: dict[str, Any] = {}


def parameter_server_strategy(
    workers: int = 4,
    ps: int = 1,
    *,
    worker_timeout_s: float = DEFAULT_TIMEOUT_S,
    server_timeout_s: float = DEFAULT_TIMEOUT_S,
    start_timeout_s: float | None = None,
    chief_timeout_s: float = CHIEF_TIMEOUT_S,
    worker_restarts: int = DEFAULT_WORKER_RESTARTS,
) -> Any:
    """Return a `tf.distribute.ParameterServerStrategy`.

    If TF_CONFIG is set, or in a pod of k8s/, this is the strategy of that cluster, and every task
    runs the same script: in the chief this function returns, and in a worker or ps it serves until
    `dismiss` or SIGTERM and never returns. Otherwise it starts a local cluster, which lives until
    this process ends.

    Args:
      workers: number of worker processes of the local cluster; ignored with TF_CONFIG.
      ps: number of its parameter-server processes; ignored with TF_CONFIG.
      worker_timeout_s: how long a worker may be silent before it is given up. It may come back
        later.
      server_timeout_s: how long a parameter server may be silent before it counts as lost and
        training ends.
      start_timeout_s: how long the chief waits for parameter servers to start, by default half an
        hour; or for the processes of the local cluster, by default two minutes.
      chief_timeout_s: how long a worker or ps serves without a chief; ignored without TF_CONFIG.
      worker_restarts: how often a worker of the local cluster is started again whose process ends
        by itself; ignored with TF_CONFIG.

    Returns:
      The strategy; the same one if called again with the same arguments.

    Raises:
      ValueError: if TF_CONFIG is malformed, a timeout is out of range, or this process has a
        cluster already that was made with other arguments.
      ClusterError: if not all tasks are up in time, if the parameter servers have another chief, or
        if the chief's port is taken.
    """
    timeouts = Timeouts(worker_timeout_s, server_timeout_s, start_timeout_s)
    given = {"worker_timeout_s": worker_timeout_s, "server_timeout_s": server_timeout_s}
    if tf_config.has_tf_config():
        config = tf_config.from_tf_config()
        if not config.is_chief:
            serve(chief_timeout_s=chief_timeout_s)
        _state.setdefault("chief_timeout_s", chief_timeout_s)  # For `dismiss`.
        if "chief" not in _state:
            log.info(
                "Connecting to %d parameter servers; this waits until all are up. %d workers join "
                "as they come.",
                len(config.addresses["ps"]),
                len(config.addresses["worker"]),
            )
            grpc_environment.prepare()
            with arrivals.present(config.addresses["chief"][0]):
                arrivals.wait_for(config.addresses["ps"], start_timeout_s or arrivals.TIMEOUT_S)
            _state["chief"], _state["given"] = connect(config, timeouts), given
            exposure.note(config.addresses["chief"])
            atexit.register(_forget)
        _check_same(given)
        return _state["chief"]
    local = _state.get("local")
    given["worker_restarts"] = worker_restarts
    if local is None or (local.workers, local.ps) != (workers, ps):
        if local is not None:
            raise ValueError(
                f"This process has a local cluster of {local.workers} workers and {local.ps} ps "
                f"already; it cannot have one of {workers} and {ps} too. Use "
                "tf_backup.LocalCluster as a context for several, one after the other."
            )
        local = LocalCluster(
            workers,
            ps,
            worker_timeout_s=worker_timeout_s,
            server_timeout_s=server_timeout_s,
            start_timeout_s=start_timeout_s or START_TIMEOUT_S,
            worker_restarts=worker_restarts,
        )
        local.start()  # Its processes end with this one, later than the objects that refer to them.
        atexit.register(forget, local.strategy())
        _state["local"], _state["given"] = local, given
    _check_same(given)
    return local.strategy()


def _check_same(given: dict[str, Any]) -> None:
    """Check that a later call has the arguments of the first."""
    for name, value in _state["given"].items():
        if given[name] != value:
            raise ValueError(
                f"{name} is {given[name]!r}, but this process has a cluster already, with "
                f"{value!r}, which cannot be changed: give the same at each call, or call once and "
                "keep the strategy."
            )


def dismiss() -> None:
    """Tell all workers and parameter servers that training is done; they exit with status 0.

    Call this in the last line of a chief's script, because the strategy and its variables end with
    the servers. Tasks that are down are retried for two minutes, and then named in a warning.
    Without TF_CONFIG this does nothing: a local cluster ends with this process.

    Raises:
      ValueError: if TF_CONFIG is malformed, or if this task is not the chief.
      ClusterError: if the parameter servers do not answer, or have another chief.
    """
    if not tf_config.has_tf_config():
        return
    config = tf_config.from_tf_config()
    if not config.is_chief:
        raise ValueError(
            f"This task is {config.task_type} {config.task_index}; only the chief may dismiss the "
            "others."
        )
    # Workers learn it from the servers, which therefore end last. A chief that had nothing to
    # train is not connected yet.
    arrivals.wait_for(config.addresses["ps"], dismissal.PATIENCE_S)
    strategy = _state["chief"] if "chief" in _state else parameter_server_strategy()
    missed = dismissal.dismiss_workers(coordinator.of(strategy))
    _forget()
    missed += dismissal.dismiss_servers(config.addresses["ps"])
    log.info("Workers and parameter servers have been told that training is done.")
    if missed:
        log.warning(
            "But not %s: down. Once up, they end after %.0f s without a chief.",
            ", ".join(missed),
            _state.get("chief_timeout_s", CHIEF_TIMEOUT_S),
        )


def _forget() -> None:
    """Release the cluster whose chief is this process."""
    if "chief" in _state:
        forget(_state.pop("chief"))
