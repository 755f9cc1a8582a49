"""Networks of a local cluster's workers, each a process that can be stopped."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tf_backup.cluster import worker_routes
from tf_backup.errors import ClusterError

FORWARDER = Path(__file__).with_name("forwarder.py")
_START_S = 60.0  # For Python to start, on a busy machine.


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
        ready = select.select([process.stdout], [], [], _START_S)[0]
        answer = process.stdout.readline() if ready else b""
        if not answer:
            raise ClusterError(
                f"The forwarder of worker {worker} ended, or did not start within {_START_S:g} s. "
                "Try without --cuttable_network."
            )
        return [f"127.0.0.1:{port}" for port in json.loads(answer)]

    def _end(self, worker: int) -> None:
        process = self._processes.pop(worker, None)
        if process is not None:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def forwarded(wanted: bool) -> Iterator[None]:
    """Let the workers of local clusters use `WorkerNetworks` within this context, if wanted."""
    with contextlib.ExitStack() as stack:
        if wanted:
            networks = stack.enter_context(contextlib.closing(WorkerNetworks()))
            stack.enter_context(worker_routes.through(networks.route))
        yield
