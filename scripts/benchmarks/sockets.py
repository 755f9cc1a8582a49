"""How much this process has sent and received over the network."""

from __future__ import annotations

import os
import socket
import stat
import struct

_COUNTS = struct.Struct("QQ")  # tcpi_bytes_acked and tcpi_bytes_received, of struct tcp_info,
_OFFSET = 120  # which lie here (linux/tcp.h).


def total_bytes() -> int:
    """Return the bytes that went through this process' TCP connections, in both directions.

    Connections that have been closed do not count any more. Linux only.
    """
    return sum(_bytes_of(int(name)) for name in os.listdir("/proc/self/fd"))


def _bytes_of(descriptor: int) -> int:
    """Return the bytes that went through a descriptor; 0 if it is no TCP connection."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return 0
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return 0
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return 0  # Closed meanwhile, or UDP.
    return sum(_COUNTS.unpack_from(info, _OFFSET))
