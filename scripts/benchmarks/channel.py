"""A benchmark process' end of the pipes to its parent.

The parent writes commands to standard input, a JSON object a line: `{"measure": 100}` or `{"stop":
true}`. Replies go the same way through standard output, from which all else is kept away. Standard
input is also the lifeline: the process ends when it closes, and that is when the parent ends or
closes it.
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

_GRACE_S = 5.0  # To clean up in.


class Channel:
    """Takes commands and gives replies; made once, before anything is printed.

    Attributes:
      stop: set while the parent wants a measurement to end.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._commands: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._waiting = False
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # What libraries print is for the log.
        threading.Thread(target=self._read, daemon=True).start()

    def reply(self, **values: Any) -> None:
        """Send a reply."""
        self._out.write(json.dumps(values) + "\n")
        self._out.flush()

    def next(self) -> dict[str, Any] | None:
        """Wait for a command; None: the process is to end."""
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
