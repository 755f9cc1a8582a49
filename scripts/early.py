"""Signal handlers that end a command while it still imports; to be imported first."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _end(signum: int, frame: FrameType | None) -> None:
    del frame
    terminated = signum == signal.SIGTERM
    os.write(2, b"Told to end.\n" if terminated else b"Interrupted.\n")
    os._exit(143 if terminated else 1)


signal.signal(signal.SIGINT, _end)
signal.signal(signal.SIGTERM, _end)
# A worker that restarts itself blocks these signals until then.
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])
