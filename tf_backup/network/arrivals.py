"""Waiting until the servers of a cluster are up, which may take as long as their machines do."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence

from tf_backup.errors import ClusterError
from tf_backup.network.address import split
from tf_backup.network.status import accepts, ask, is_ready
from tf_backup.network.watch import Watch

log = logging.getLogger(__name__)

POLL_S = 0.5
TIMEOUT_S = 1800.0  # Images are pulled, nodes are made: minutes. Then somebody should look.
PORT_TAKEN = "Cannot listen at port"
NAMED = 5  # So many of those who are missing are named.


class _Door(socketserver.TCPServer):
    """Accepts connections, and ends them: who does not accept is not seen after a hundred."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    allow_reuse_address = True
    request_queue_size = 128

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:  # Then IPv4 comes in there, too.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def wait_for(servers: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
    """Waits until every parameter server answers; says who is missing after 10 s, 20 s, 40 s ...

    TensorFlow would wait as well, but silently, and deaf to signals.

    Args:
      servers: their `host:port`.
      timeout_s: how long to wait.

    Raises:
      ClusterError: if not all have come by then, naming those who have not, or if
        another task answers in the place of one.
    """
    missing = dict(enumerate(servers))
    watch = Watch()
    while missing := {i: address for i, address in missing.items() if not _answers(i, address)}:
        names = ", ".join(f"ps {i} ({address})" for i, address in list(missing.items())[:NAMED])
        names += f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        if watch.seconds > timeout_s:
            raise ClusterError(
                f"The cluster is not complete after {watch.seconds:.0f} s: there is no {names}. "
                "Start them, then run this command again."
            )
        if watch.time_to_report():
            log.warning("Waiting for %s since %.0f s.", names, watch.seconds)
            for index, address in missing.items():
                if accepts(address):
                    log.warning(
                        "Something listens at %s, but does not answer as a server of "
                        "tf_backup.serve() does: is it another program? It should be ps %d.",
                        address,
                        index,
                    )
        time.sleep(POLL_S)


def _answers(index: int, address: str) -> bool:
    """Returns whether a parameter server answers, and is ready for clients."""
    status = ask(address)
    if status is not None and status.task != f"ps {index}":
        raise ClusterError(
            f"The server at {address} is {status.task}, but it should be ps {index}: all tasks "
            "must have the same cluster in TF_CONFIG."
        )
    return status is not None and is_ready(address)


@contextlib.contextmanager
def present(address: str) -> Iterator[None]:
    """Accepts connections where a task is to serve later: so others see already that it lives.

    Args:
      address: the task's own `host:port`.

    Raises:
      ClusterError: if something else listens there.
    """
    door = _listening(address)
    thread = threading.Thread(target=door.serve_forever, args=(POLL_S,), daemon=True)
    with door:
        thread.start()
        try:
            yield
        finally:
            door.shutdown()
            thread.join()


def check_port(address: str) -> None:
    """Refuses a port of this task that something else listens at.

    TensorFlow would say so with a trace of its C++; and where the other is a TensorFlow server
    itself, Linux lets both of them listen, and gives each some of the connections.

    Args:
      address: the task's own `host:port`.

    Raises:
      ClusterError: if something listens there.
    """
    _listening(address).server_close()


def _listening(address: str) -> _Door:
    """Returns a door that listens at the port of an address of this task."""
    _, port = split(address)
    try:
        return _Door(("", port), socketserver.BaseRequestHandler)
    except OSError as error:
        raise ClusterError(
            f"{PORT_TAKEN} {port}, which TF_CONFIG gives to this task: {error.strerror}. "
            "End what listens there, perhaps an earlier run, or name another port."
        ) from error
