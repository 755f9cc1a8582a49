"""Parsing of 'host:port'."""

from __future__ import annotations

from typing import Any

import pytest

from tf_backup.network import address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host0:2222", "host0", 2222),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("train-ps-0.train.default.svc.cluster.local.:65535", None, 65535),
        ("[::1]:2222", "::1", 2222),
        ("[FE80::1%eth0]:80", "fe80::1%eth0", 80),
        ("my_service:80", "my_service", 80),
        ("_dns.sd:80", "_dns.sd", 80),
        ("bücher.example:80", "bücher.example", 80),
        (f"{'a' * 63}.b:80", f"{'a' * 63}.b", 80),
    ],
)
def test_split(text: str, host: str | None, port: int) -> None:
    assert address.split(text) == (host or text.rpartition(":")[0], port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://host:22", "leave out 'http://'"),
        ("grpc://host:22", "leave out 'grpc://'"),
        ("::1", "an IPv6 address needs brackets"),
        ("fe80::1:2222", "an IPv6 address needs brackets"),
        ("[::1]", "the port '1]' is not a number"),
        ("[host]:22", "'host' is not an IPv6 address"),
        ("[::12345]:22", "'::12345' is not an IPv6 address"),
        ("host:0", "the port '0' is not a number from 1 to 65535"),
        ("host:65536", "the port '65536' is not a number from 1 to 65535"),
        ("host:99999", "the port '99999' is not a number from 1 to 65535"),
        ("host:-1", "the port '-1' is not a number"),
        ("host:٢", "the port '٢' is not a number"),
        ("host:", "the port '' is not a number"),
        (":22", "it needs a host"),
        ("host", "it needs a host"),
        ("host..name:22", "'host..name' is not the name of a host"),
        (f"{'a' * 64}:22", "is not the name of a host"),
        (f"{'a.' * 127}a:22", "is not the name of a host"),
        ("-host:22", "'-host' is not the name of a host"),
        ("host-:22", "'host-' is not the name of a host"),
        ("my host:22", "'my host' is not the name of a host"),
        ("host/path:22", "'host/path' is not the name of a host"),
        (".:22", "'.' is not the name of a host"),
        (2222, "it is not a string"),
        (None, "it is not a string"),
    ],
)
def test_what_is_no_address(text: Any, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        address.split(text)
    assert reason in str(error.value)
