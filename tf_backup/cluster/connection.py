"""Creation and release of the strategy of a running cluster, in its chief's process."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_backup import quiet
from tf_backup._tf import grpc_environment
from tf_backup.cluster import tf_config
from tf_backup.network.parameter_servers import Servers
from tf_backup.rules.members import HEARTBEAT_S

DEFAULT_TIMEOUT_S = 30.0  # Longer than pauses of a busy machine or network.


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Times that tasks may be silent before they count as lost, in seconds.

    Args:
      worker_s: time for a worker. A lost worker is given up, and may come back later.
      server_s: time for a parameter server. Training ends when one is lost.
      start_s: time for tasks to start; None for the default of a local cluster or a job.

    Raises:
      ValueError: if a time is not positive, or `worker_s` is below two heartbeats.
    """

    worker_s: float = DEFAULT_TIMEOUT_S
    server_s: float = DEFAULT_TIMEOUT_S
    start_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("worker", self.worker_s),
            ("server", self.server_s),
            ("start", 1.0 if self.start_s is None else self.start_s),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name}_timeout_s is {value!r}; it must be a number above 0.")
        if self.worker_s < 2 * HEARTBEAT_S:
            raise ValueError(
                f"worker_timeout_s is {self.worker_s!r}; it must be at least {2 * HEARTBEAT_S:g}, "
                f"since workers show every {HEARTBEAT_S:g} s that they live."
            )


_connected: list[str] = []  # The chief's address in the cluster that this process is connected to.


def connect(config: tf_config.ClusterConfig, timeouts: Timeouts, local: bool = False) -> Any:
    """Return the strategy of a running cluster, in its chief's process.

    Args:
      config: addresses of the tasks.
      timeouts: how long they may be silent.
      local: whether the tasks are processes of a `LocalCluster`.

    Raises:
      ValueError: if this process is connected to another cluster, which TensorFlow would not
        survive: it has one description of a cluster per process.
      ClusterError: if the parameter servers have another chief.
    """
    if _connected:
        raise ValueError(
            f"This process is the chief of a cluster already, as {_connected[0]}, and TensorFlow "
            "connects a process to one cluster at a time. Use one after the other: leave the "
            "context of the first LocalCluster, or start another process."
        )
    grpc_environment.prepare()
    from tf_backup._tf.strategies import Strategy
    from tf_backup.actors import coordinator
    from tf_backup.keras import _seams  # Here, because worker processes do not need Keras.

    _seams.install()
    servers = Servers(config.addresses["ps"], timeouts.server_s, watch_signals=True)
    try:
        with quiet.hold_stderr_back():
            strategy = Strategy(config.resolver())
        coordinator.register(
            strategy, coordinator.Coordinator(config.addresses, servers, timeouts.worker_s, local)
        )
    except BaseException:
        servers.close()
        raise
    _connected.append(config.addresses["chief"][0])
    return strategy


def forget(strategy: Any) -> None:
    """Release the cluster of a strategy, which may then shut down."""
    from tf_backup._tf import runtime
    from tf_backup.actors import coordinator

    known = coordinator.of(strategy)
    _connected.clear()
    known.close()
    if known.servers.lost is None:
        runtime.forget_cluster(known.addresses["chief"][0])
