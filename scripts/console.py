"""Console output of a command: messages of this project, without those of libraries."""

from __future__ import annotations

import logging
import sys
import warnings


def set_up() -> None:
    """Log this project's messages to standard error, as plain lines."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("tensorflow", "absl", "h5py", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    # Keras warns of this whenever data of unknown length ends.
    warnings.filterwarnings("ignore", "Your input ran out of data; interrupting training")
