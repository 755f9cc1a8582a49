"""Addresses of tasks ('host:port'), which only this module parses."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

_LABEL = re.compile(r"[^\W_]([\w-]{0,61}[^\W_])?|_[\w-]{0,62}")  # DNS names may begin with _.
_LONGEST_NAME = 253


def split(address: Any) -> tuple[str, int]:
    """Return the host and the port of an address; an IPv6 host comes without its brackets.

    Args:
      address: 'host:port', with an IPv6 address in brackets, as in '[::1]:2222'.

    Raises:
      ValueError: if a part is wrong; the message says which one.
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
    """Check that a host is a name or an IP address, and return it."""
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
