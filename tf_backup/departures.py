"""Telling the tasks of a cluster that training is done, so that their processes end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tf_backup import _tf
from tf_backup.failures import answers

TIMEOUT_S = 10.0
AT_ONCE = 16  # Connections of a cluster of hundreds.


def dismiss(addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """Tells every task that it may end.

    Args:
      addresses: the `host:port` of the tasks, by job.

    Returns:
      Those who could not be told, as `worker 3 (host:port)`: they are down just now.
    """

    def told(task: tuple[str, int, str]) -> bool:
        job, index, address = task
        return answers(address) and _tf.dismiss(job, index, address, TIMEOUT_S)

    tasks = [
        (job, index, address)
        for job, of_job in addresses.items()
        for index, address in enumerate(of_job)
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(told, tasks))
    return [
        f"{job} {index} ({address})"
        for (job, index, address), done in zip(tasks, results, strict=True)
        if not done
    ]
