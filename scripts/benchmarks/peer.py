"""Interface of the programs in `systems`."""

from __future__ import annotations

import threading
from typing import Any, Protocol


class Peer(Protocol):
    """One process of a system.

    Attributes:
      children: process ids of the tasks that this process has started, by job.
    """

    children: dict[str, list[int]]

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Make updates.

        Args:
          steps: number of updates. If several processes train together, the first one counts
            them, and the others return when `stop` is set.
          stop: set when the first process has returned.

        Returns:
          The number of updates made.
        """


def set_threads(intra_op: int, inter_op: int = 0) -> Any:
    """Set the sizes of this process' thread pools, and return TensorFlow.

    Args:
      intra_op: number of threads for one operation.
      inter_op: number of operations to run at once; 0 for TensorFlow's default, one per core.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    tf.config.threading.set_inter_op_parallelism_threads(inter_op)
    return tf
