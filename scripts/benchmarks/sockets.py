"""Bytes that this process has sent and received over TCP.

Read from the sockets themselves: psutil counts the bytes of whole interfaces only.
"""

from __future__ import annotations

import os
import socket
import stat
import struct

# tcpi_bytes_acked and tcpi_bytes_received, at their offset in struct tcp_info (linux/tcp.h).
_COUNTS = struct.Struct("QQ")
_OFFSET = 120


def total_bytes() -> int:
    """Return the bytes of all open TCP connections of this process, in both directions.

    Closed connections are not counted. Linux only.
    """
    return sum(_bytes_of(int(name)) for name in os.listdir("/proc/self/fd"))


def _bytes_of(descriptor: int) -> int:
    """Return the bytes of one file descriptor; 0 if it is not a TCP connection."""
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
