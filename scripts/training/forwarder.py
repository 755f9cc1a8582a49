"""Program that passes a worker's traffic with the parameter servers on; stop it to cut the network.

    forwarder.py INDEX HOST:PORT [HOST:PORT ...]

listens on a free local port for each address, prints these ports as a JSON list, and connects each
client to the address that belongs to the port. INDEX is the worker's, by which others recognize the
process. It exits when its standard input closes, and also if it is stopped when its parent exits.

While the process is stopped (SIGSTOP), nothing gets through in either direction and no connection
is closed, as when a network loses all packets. After SIGCONT everything arrives, late.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_CHUNK = 1 << 18


def listen(address: str) -> int:
    """Forward connections to an address in the background, and return the port to connect to."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, address), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def _accept(listener: socket.socket, address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection((host, int(port)))
        except OSError:  # Nobody listens: the client finds its connection closed.
            client.close()
            continue
        for source, target in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source has no more to say or one of them is closed."""
    buffer = memoryview(bytearray(_CHUNK))
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(buffer[:size])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main(arguments: Sequence[str]) -> None:
    """Run the program."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    print(json.dumps([listen(address) for address in arguments[1:]]), flush=True)
    os.read(sys.stdin.fileno(), 1)


if __name__ == "__main__":
    main(sys.argv[1:])
