"""Keeps what TensorFlow's C++ writes to standard error from the user."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def silence_stderr() -> None:
    """Discards all that this process writes to standard error from now on.

    For a process that ends: TensorFlow would complain, for each function of a graph, of every
    task that has gone.
    """
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


@contextlib.contextmanager
def hold_stderr_back() -> Iterator[None]:
    """Holds standard error back in this context, and writes it only if the context fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
