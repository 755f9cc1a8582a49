"""Waiting for the servers of a cluster to start, which may include starting their machines."""

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
TIMEOUT_S = 1800.0  # Enough to pull images and create nodes.
PORT_TAKEN = "Cannot listen at port"
NAMED = 5  # Number of missing servers that a message names.


class _Door(socketserver.TCPServer):
    """Server that accepts connections and closes them at once, so that its backlog never fills."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    allow_reuse_address = True
    request_queue_size = 128

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:  # Accept IPv4, too.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def wait_for(servers: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until every parameter server answers; log the missing ones after 10 s, 20 s, 40 s ...

    TensorFlow would also wait, but silently and without handling signals.

    Args:
      servers: addresses (`host:port`) of the parameter servers.
      timeout_s: how long to wait, in seconds.

    Raises:
      ClusterError: if servers are still missing after that time (the message names them), or if
        another task answers at the address of one.
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
    """Return whether a parameter server answers and is ready for clients."""
    status = ask(address)
    if status is not None and status.task != f"ps {index}":
        raise ClusterError(
            f"The server at {address} is {status.task}, but it should be ps {index}: all tasks "
            "must have the same cluster in TF_CONFIG."
        )
    return status is not None and is_ready(address)


@contextlib.contextmanager
def present(address: str) -> Iterator[None]:
    """Accept connections at a task's port before its server starts, to show that it is alive.

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
    """Check that nothing else listens at this task's port.

    TensorFlow would report that with a C++ stack trace. If the other process is a TensorFlow server
    too, Linux even lets both of them listen, and gives each some of the connections.

    Args:
      address: the task's own `host:port`.

    Raises:
      ClusterError: if something listens there.
    """
    _listening(address).server_close()


def _listening(address: str) -> _Door:
    """Return a server that listens at the port of this task's address."""
    _, port = split(address)
    try:
        return _Door(("", port), socketserver.BaseRequestHandler)
    except OSError as error:
        raise ClusterError(
            f"{PORT_TAKEN} {port}, which TF_CONFIG gives to this task: {error.strerror}. "
            "End what listens there, perhaps an earlier run, or name another port."
        ) from error
