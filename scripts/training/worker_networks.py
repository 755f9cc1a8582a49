"""Networks of a local cluster's workers, each a process that can be stopped."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tf_backup.cluster import worker_routes

FORWARDER = Path(__file__).with_name("forwarder.py")


class WorkerNetworks:
    """Forwarder processes, one for each worker; see `forwarder.py`."""

    def __init__(self) -> None:
        self._ways: dict[int, tuple[list[str], list[str]]] = {}  # Addresses, and those instead.
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def route(self, worker: int, addresses: Sequence[str]) -> list[str]:
        """Return the addresses of a worker's forwarder, which is started the first time."""
        known, instead = self._ways.get(worker, ([], []))
        if known != [*addresses]:
            self._end(worker)
            instead = self._start(worker, addresses)
            self._ways[worker] = [*addresses], instead
        return instead

    def close(self) -> None:
        """End all processes."""
        for worker in [*self._processes]:
            self._end(worker)

    def _start(self, worker: int, addresses: Sequence[str]) -> list[str]:
        # -I: without the script's folder, whose modules have names of libraries.
        command = [sys.executable, "-I", str(FORWARDER), str(worker), *addresses]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._processes[worker] = process
        assert process.stdout is not None
        return [f"127.0.0.1:{port}" for port in json.loads(process.stdout.readline())]

    def _end(self, worker: int) -> None:
        process = self._processes.pop(worker, None)
        if process is not None:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def forwarded(wanted: bool) -> Iterator[None]:
    """Let the workers of local clusters use such networks within this context, if wanted."""
    with contextlib.ExitStack() as stack:
        if wanted:
            networks = stack.enter_context(contextlib.closing(WorkerNetworks()))
            stack.enter_context(worker_routes.through(networks.route))
        yield
