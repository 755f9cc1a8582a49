"""Waiting until the tasks of a cluster are up, which may take as long as their machines do."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from tf_backup.failures import answers
from tf_backup.watch import Watch

log = logging.getLogger(__name__)

POLL_S = 0.5
NAMED = 5  # So many of those who are missing are named.


def wait_for(addresses: Mapping[str, Sequence[str]]) -> None:
    """Waits until every task accepts connections; says who is missing after 10 s, 20 s, 40 s ...

    TensorFlow would wait as well, but silently, and deaf to signals.

    Args:
      addresses: the `host:port` of the tasks, by job.
    """
    missing = [
        (f"{job} {index}", address)
        for job, tasks in addresses.items()
        for index, address in enumerate(tasks)
    ]
    watch = Watch()
    while missing := [task for task in missing if not answers(task[1])]:
        if watch.time_to_report():
            names = ", ".join(f"{name} ({address})" for name, address in missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            log.warning("Waiting for %s%s since %.0f s.", names, more, watch.seconds)
        time.sleep(POLL_S)
