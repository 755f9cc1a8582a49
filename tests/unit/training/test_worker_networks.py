"""Networks of workers: real processes that pass bytes on, and are stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.training import worker_networks
from scripts.training.worker_networks import FORWARDER, WorkerNetworks, forwarded
from tf_backup.cluster import worker_routes
from tf_backup.errors import ClusterError

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, f"localhost:{server.getsockname()[1]}"


@contextlib.contextmanager
def networks() -> Iterator[WorkerNetworks]:
    with contextlib.closing(WorkerNetworks()) as found:
        yield found


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def forwarders() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # One that an earlier test has ended.
            if str(FORWARDER) in child.cmdline():
                found.append(child)
    return found


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_each_address_has_its_own_way_in_both_directions() -> None:
    with listening() as (first, one), listening() as (second, other), networks() as found:
        ways = found.route(3, [one, other])
        assert len({*ways, one, other}) == 4
        for server, way in ((second, ways[1]), (first, ways[0])):
            with connect(way) as client, server.accept()[0] as end:
                sent = os.urandom(3_000_000)
                client.sendall(sent[:10])
                assert end.recv(10, socket.MSG_WAITALL) == sent[:10]
                end.sendall(sent[:1000])
                assert client.recv(1000, socket.MSG_WAITALL) == sent[:1000]
                client.shutdown(socket.SHUT_WR)
                assert end.recv(1) == b""  # A half that is closed is, and the other is not.
                end.sendall(b"more")
                assert client.recv(4, socket.MSG_WAITALL) == b"more"


def test_what_is_sent_during_a_cut_arrives_after_it() -> None:
    with listening() as (server, address), networks() as found:
        (way,) = found.route(0, [address])
        (process,) = forwarders()
        with connect(way) as client, server.accept()[0] as end:
            process.send_signal(signal.SIGSTOP)
            client.sendall(b"late")
            end.settimeout(0.5)
            with pytest.raises(TimeoutError):
                end.recv(1)
            with connect(way) as another:  # Neither refused nor answered.
                another.sendall(b"new")
                server.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    server.accept()
                process.send_signal(signal.SIGCONT)
                end.settimeout(10)
                assert end.recv(4, socket.MSG_WAITALL) == b"late"
                server.settimeout(10)
                with server.accept()[0] as new_end:
                    assert new_end.recv(3, socket.MSG_WAITALL) == b"new"


def test_a_connection_to_nobody_is_closed() -> None:
    with listening() as (_, address):
        pass
    with networks() as found, connect(found.route(0, [address])[0]) as client:
        assert client.recv(1) == b""


def test_a_worker_that_starts_again_keeps_its_network_and_other_servers_get_a_new_one() -> None:
    with networks() as found:
        ways = found.route(1, ["localhost:1"])
        (process,) = forwarders()
        assert found.route(1, ["localhost:1"]) == ways
        assert forwarders() == [process]
        found.route(1, ["localhost:2"])
        assert forwarders() != [process]
        found.route(2, ["localhost:2"])
        assert len(forwarders()) == 2
    assert not forwarders()


def test_a_forwarder_that_does_not_start_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_networks, "FORWARDER", tmp_path / "missing.py")
    with networks() as found, pytest.raises(ClusterError, match="The forwarder of worker 4 ended"):
        found.route(4, ["localhost:1"])


def test_routes_are_those_of_the_context() -> None:
    with forwarded(False):
        assert worker_routes.of_worker(0, ["localhost:1"]) == ["localhost:1"]
    with forwarded(True):
        (way,) = worker_routes.of_worker(0, ["localhost:1"])
        assert way.startswith("127.0.0.1:")
        with worker_routes.through(lambda worker, addresses: [f"host{worker}:9"]):
            assert worker_routes.of_worker(5, ["localhost:1"]) == ["host5:9"]
        assert worker_routes.of_worker(0, ["localhost:1"]) == [way]
    assert worker_routes.of_worker(0, ["localhost:1"]) == ["localhost:1"]
    assert not forwarders()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_network_ends_with_its_process_however_that_ends(stopped: bool) -> None:
    program = """
import sys, time
from scripts.training.worker_networks import WorkerNetworks
networks = WorkerNetworks()
networks.route(0, ["localhost:1"])
print(*[each.pid for each in networks._processes.values()], flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        process.kill()
    deadline = time.monotonic() + 10
    while not ended(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
