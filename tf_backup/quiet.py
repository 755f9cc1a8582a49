"""Suppression of what TensorFlow's C++ code writes to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def silence_stderr() -> None:
    """Discard everything that this process writes to standard error from now on.

    For a process that is about to exit: for each function of a graph, TensorFlow would complain
    about every task that is gone.
    """
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


@contextlib.contextmanager
def hold_stderr_back() -> Iterator[None]:
    """Hold back standard error in this context, and write it only if the context fails."""
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
