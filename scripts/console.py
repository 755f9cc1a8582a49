"""What a command says, and what it keeps the libraries from saying."""

from __future__ import annotations

import logging
import sys
import warnings


def set_up() -> None:
    """Logs to standard error in plain lines, of this project only."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("tensorflow", "absl", "h5py", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    # Keras says so whenever data of unknown length ends.
    warnings.filterwarnings("ignore", "Your input ran out of data; interrupting training")
