"""Ports for tasks that are about to start."""

from __future__ import annotations

import socket

from tf_backup.network import free_ports as module
from tf_backup.network.free_ports import free_ports


def test_they_are_free_distinct_and_never_those_of_outgoing_connections(monkeypatch) -> None:
    monkeypatch.setattr(module, "_first_outgoing", lambda: 32768)
    ports = free_ports(200)
    assert len(set(ports)) == 200
    assert min(ports) >= 10000 and max(ports) < 32768
    for port in ports[:20]:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_taken_ports_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr(module, "_first_outgoing", lambda: 32768)
    monkeypatch.setattr(module.random.SystemRandom, "randrange", lambda self, a, b: next(drawn))
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            other = held.getsockname()[1]
        drawn = iter([port, other])
        assert free_ports(1) == [other]


def test_where_the_range_is_unknown_or_leaves_no_room_the_system_chooses(monkeypatch) -> None:
    for first in (0, 1024):
        monkeypatch.setattr(module, "_first_outgoing", lambda first=first: first)
        assert len(set(free_ports(5))) == 5


def test_the_range_of_this_machine_is_read() -> None:
    first = module._first_outgoing()
    assert 0 < first < 65536
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        assert client.getsockname()[1] >= first
