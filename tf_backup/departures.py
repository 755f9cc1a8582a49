"""Telling the tasks of a cluster that training is done, so that their processes end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tf_backup import _tf
from tf_backup.failures import answers
from tf_backup.watch import Watch

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # Of one task that does not answer.
PATIENCE_S = 120.0  # With those who are being started again.
POLL_S = 1.0
AT_ONCE = 16  # Connections of a cluster of hundreds.

_Task = tuple[str, int, str]


def dismiss(addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """Tells every task that it may end; tries those who are down again for two minutes.

    Args:
      addresses: the `host:port` of the tasks, by job.

    Returns:
      Those who could not be told, as `worker 3 (host:port)`.
    """
    missing = [
        (job, index, address)
        for job, of_job in addresses.items()
        for index, address in enumerate(of_job)
    ]
    watch = Watch()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while missing:
            told = list(pool.map(_tell, missing))
            missing = [task for task, done in zip(missing, told, strict=True) if not done]
            if not missing or watch.seconds >= PATIENCE_S:
                break
            if watch.time_to_report():
                log.info("%d tasks are down, and not dismissed yet.", len(missing))
            time.sleep(POLL_S)
    return [f"{job} {index} ({address})" for job, index, address in missing]


def _tell(task: _Task) -> bool:
    """Returns whether a task has been told."""
    job, index, address = task
    return answers(address) and _tf.dismiss(job, index, address, TIMEOUT_S)
