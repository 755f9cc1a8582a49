"""Ports of this machine for tasks that are about to start."""

from __future__ import annotations

import contextlib
import random
import socket

_OUTGOING = "/proc/sys/net/ipv4/ip_local_port_range"
_LEAST = 10000


def free_ports(count: int) -> list[int]:
    """Return distinct ports that nobody listens on, each held until the last is found.

    They lie below those that Linux gives to outgoing connections. A starting cluster opens many of
    these, and one could take the port of a task that does not listen yet.
    """
    # From the system's randomness: programs with one seed may start clusters at the same time.
    draw = random.SystemRandom()
    end = _first_outgoing()
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            held = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                held.bind(("127.0.0.1", draw.randrange(_LEAST, end) if end > 2 * _LEAST else 0))
                found.append(int(held.getsockname()[1]))
    return found


def _first_outgoing() -> int:
    """Return the first port that the system gives to outgoing connections; 0 if unknown."""
    try:
        with open(_OUTGOING, encoding="ascii") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError):
        return 0
