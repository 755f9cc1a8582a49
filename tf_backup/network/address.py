"""Where a task is: 'host:port', taken apart here and nowhere else."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

_LABEL = re.compile(r"[^\W_]([\w-]{0,61}[^\W_])?|_[\w-]{0,62}")  # Names in DNS may begin with _.
_LONGEST_NAME = 253


def split(address: Any) -> tuple[str, int]:
    """Returns the host, an IPv6 address without its brackets, and the port.

    Args:
      address: 'host:port'; an IPv6 address is in brackets, as in '[::1]:2222'.

    Raises:
      ValueError: saying which part is wrong.
    """
    if not isinstance(address, str):
        raise ValueError("it is not a string")
    if "://" in address:
        raise ValueError(f"leave out {address[: address.index('://') + 3]!r}")
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError("it needs a host, a colon and a port")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"the port {port!r} is not a number from 1 to 65535")
    return _host(host), int(port)


def _host(host: str) -> str:
    """Returns a host, checked to be a name or an IP address."""
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{host[1:-1]!r} is not an IPv6 address") from None
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets, as in '[::1]:2222'")
    labels = host.removesuffix(".").split(".")
    if len(host) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            f"{host!r} is not the name of a host: letters, digits and hyphens, 1 to 63 between two "
            "dots"
        )
    return host
