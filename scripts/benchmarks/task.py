"""Main program of a benchmark process: `python -m scripts.benchmarks.task SPEC`.

Runs one module of `systems/`, reports when it is ready, measures on request, and ends with its
parent.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from typing import Any

from scripts.benchmarks import sockets
from scripts.benchmarks.channel import Channel
from scripts.benchmarks.peer import Peer
from scripts.benchmarks.spec import Spec


def main() -> None:
    """Run the process."""
    channel = Channel()
    spec = Spec.from_json(sys.argv[1])
    status = 0
    try:
        serve(spec, channel)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        status = 1
        traceback.print_exc()
        channel.reply(error=f"{type(error).__name__}: {error}")
    sys.stderr.flush()
    os._exit(status)  # Threads of TensorFlow's servers would outlive sys.exit.


def serve(spec: Spec, channel: Channel) -> None:
    """Start the program, and answer commands until the parent closes the pipe."""
    program = importlib.import_module(f"scripts.benchmarks.systems.{spec.program}")
    with program.start(spec) as peer:
        channel.reply(ready=True, children=peer.children)
        while (command := channel.next()) is not None:
            for name, value in command.items():
                channel.reply(**_COMMANDS[name](peer, value, channel))


def measure(peer: Peer, steps: int, channel: Channel) -> dict[str, Any]:
    """Make updates; return their number, and what they took: seconds, bytes, and times of parts."""
    bytes_before = sockets.total_bytes()
    begin = time.monotonic()
    updates = peer.measure(steps, channel.stop)
    seconds = time.monotonic() - begin
    return {
        "updates": updates,
        "seconds": seconds,
        "bytes": sockets.total_bytes() - bytes_before,
        "times": peer.times() if hasattr(peer, "times") else {},
    }


_COMMANDS = {"measure": measure}


if __name__ == "__main__":
    main()
