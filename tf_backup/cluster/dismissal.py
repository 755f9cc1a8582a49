"""Dismissal of the tasks of a cluster after training, so that their processes exit."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tf_backup._tf import runtime
from tf_backup.actors.coordinator import Coordinator
from tf_backup.network.status import accepts
from tf_backup.network.watch import Watch

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # For one server to answer.
PATIENCE_S = 120.0  # For tasks that are being restarted.
POLL_S = 1.0
AT_ONCE = 16  # Number of servers to dismiss in parallel.


def dismiss_workers(coordinator: Coordinator) -> list[str]:
    """Tell every worker to exit, and wait up to two minutes for those that are down.

    Returns:
      The workers that could not be told, as `worker 3 (host:port)`.
    """
    addresses = coordinator.addresses["worker"]
    missed = coordinator.dismiss(PATIENCE_S)
    return [f"worker {index} ({addresses[index]})" for index in missed]


def dismiss_servers(addresses: Sequence[str]) -> list[str]:
    """Tell every parameter server to exit, and retry for two minutes those that are down.

    Args:
      addresses: `host:port` of the servers.

    Returns:
      The servers that could not be told, as `ps 1 (host:port)`.
    """
    missing = list(enumerate(addresses))
    watch = Watch()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while missing:
            dismissed = list(pool.map(_tell, missing))
            missing = [task for task, done in zip(missing, dismissed, strict=True) if not done]
            if not missing or watch.seconds >= PATIENCE_S:
                break
            if watch.time_to_report():
                log.info("%d parameter servers are down, and not dismissed yet.", len(missing))
            time.sleep(POLL_S)
    return [f"ps {index} ({address})" for index, address in missing]


def _tell(task: tuple[int, str]) -> bool:
    """Tell a parameter server to exit; return whether it has been told."""
    index, address = task
    return accepts(address) and runtime.tell_to_end("ps", index, address, TIMEOUT_S)
