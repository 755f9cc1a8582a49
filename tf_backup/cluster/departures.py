"""Telling the tasks of a cluster that training is done, so that their processes end."""

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

TIMEOUT_S = 10.0  # Of one server that does not answer.
PATIENCE_S = 120.0  # With those who are being started again.
POLL_S = 1.0
AT_ONCE = 16  # Connections of a cluster of hundreds.


def dismiss_workers(coordinator: Coordinator) -> list[str]:
    """Tells every worker that it may end; waits up to two minutes for those who are down.

    Returns:
      Those who could not be told, as `worker 3 (host:port)`.
    """
    addresses = coordinator.addresses["worker"]
    missed = coordinator.dismiss(PATIENCE_S)
    return [f"worker {index} ({addresses[index]})" for index in missed]


def dismiss_servers(addresses: Sequence[str]) -> list[str]:
    """Tells every parameter server that it may end; tries those who are down for two minutes.

    Args:
      addresses: their `host:port`.

    Returns:
      Those who could not be told, as `ps 1 (host:port)`.
    """
    missing = list(enumerate(addresses))
    watch = Watch()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while missing:
            told = list(pool.map(_tell, missing))
            missing = [task for task, done in zip(missing, told, strict=True) if not done]
            if not missing or watch.seconds >= PATIENCE_S:
                break
            if watch.time_to_report():
                log.info("%d parameter servers are down, and not dismissed yet.", len(missing))
            time.sleep(POLL_S)
    return [f"ps {index} ({address})" for index, address in missing]


def _tell(task: tuple[int, str]) -> bool:
    """Returns whether a parameter server has been told."""
    index, address = task
    return accepts(address) and runtime.dismiss("ps", index, address, TIMEOUT_S)
