"""Note in the log about what the tasks of a cluster expose."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tf_backup.network import address

log = logging.getLogger(__name__)


def note(addresses: Sequence[str]) -> None:
    """Log the ports at which TensorFlow's servers listen, whose addresses are given."""
    log.info(
        "TensorFlow's servers execute what reaches them, and listen on all network interfaces: "
        "keep others away from port(s) %s.",
        ", ".join(str(address.split(each)[1]) for each in addresses),
    )
