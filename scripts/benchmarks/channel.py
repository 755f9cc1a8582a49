"""Pipes between a benchmark process and its parent, as the process sees them.

The parent writes commands to standard input, one JSON object per line: `{"measure": 100}` or
`{"stop": true}`. Replies go to standard output in the same form; everything else that is printed
goes to standard error. Standard input is also a lifeline: the process ends when it is closed, on
purpose or because the parent has died.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import sys
import threading
import time
from typing import Any

_GRACE_S = 5.0  # Time to clean up.


class Channel:
    """Receives commands and sends replies; create it once, before anything is printed.

    Attributes:
      stop: set when the parent asks for the end of the current measurement.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._commands: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._waiting = False
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # Libraries print to the log.
        threading.Thread(target=self._read, daemon=True).start()

    def reply(self, **values: Any) -> None:
        """Send a reply."""
        self._out.write(json.dumps(values) + "\n")
        self._out.flush()

    def next(self) -> dict[str, Any] | None:
        """Wait for the next command; None if the process should end."""
        self._waiting = True
        command = self._commands.get()
        self._waiting = False
        return command

    def _read(self) -> None:
        with open(0, closefd=False) as lines:
            for line in lines:
                command = json.loads(line)
                if "stop" in command:
                    self.stop.set()
                else:
                    self.stop.clear()
                    self._commands.put(command)
        self._commands.put(None)
        if not self._waiting:
            _thread.interrupt_main()
        time.sleep(_GRACE_S)
        sys.stderr.flush()
        os._exit(1)
