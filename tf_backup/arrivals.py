"""Waiting until the tasks of a cluster are up, which may take as long as their machines do."""

from __future__ import annotations

import contextlib
import logging
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from tf_backup.errors import ClusterError
from tf_backup.failures import answers
from tf_backup.watch import Watch

log = logging.getLogger(__name__)

POLL_S = 0.5
TIMEOUT_S = 1800.0  # Images are pulled, nodes are made: minutes. Then somebody should look.
NAMED = 5  # So many of those who are missing are named.


class _Door(socketserver.TCPServer):
    """Accepts connections, and ends them: who does not accept is not seen after a hundred."""

    allow_reuse_address = True
    request_queue_size = 128


def wait_for(addresses: Mapping[str, Sequence[str]]) -> None:
    """Waits until every task accepts connections; says who is missing after 10 s, 20 s, 40 s ...

    TensorFlow would wait as well, but silently, and deaf to signals.

    Args:
      addresses: the `host:port` of the tasks, by job.

    Raises:
      ClusterError: if not all have come after half an hour, naming those who have not.
    """
    missing = [
        (f"{job} {index}", address)
        for job, tasks in addresses.items()
        for index, address in enumerate(tasks)
    ]
    watch = Watch()
    while missing := [task for task in missing if not answers(task[1])]:
        names = ", ".join(f"{name} ({address})" for name, address in missing[:NAMED])
        names += f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        if watch.seconds > TIMEOUT_S:
            raise ClusterError(
                f"The cluster is not complete after {watch.seconds:.0f} s: there is no {names}. "
                "Start them, then run this command again."
            )
        if watch.time_to_report():
            log.warning("Waiting for %s since %.0f s.", names, watch.seconds)
        time.sleep(POLL_S)


@contextlib.contextmanager
def present(address: str) -> Iterator[None]:
    """Accepts connections where a task is to serve later: so others see already that it lives.

    Args:
      address: the task's own `host:port`.

    Raises:
      ClusterError: if something else listens there.
    """
    port = int(address.rpartition(":")[2])
    try:
        door = _Door(("", port), socketserver.BaseRequestHandler)
    except OSError as error:
        raise ClusterError(
            f"Cannot listen at port {port}, which TF_CONFIG gives to this task: {error.strerror}. "
            "End what listens there, perhaps an earlier run, or name another port."
        ) from error
    thread = threading.Thread(target=door.serve_forever, args=(POLL_S,), daemon=True)
    with door:
        thread.start()
        try:
            yield
        finally:
            door.shutdown()
            thread.join()
