"""What every program of a benchmark process offers."""

from __future__ import annotations

import threading
from typing import Any, Protocol


class Peer(Protocol):
    """A system's part in one process.

    Attributes:
      children: process ids of the tasks that it has started itself, by job.
    """

    children: dict[str, list[int]]

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Make updates.

        Args:
          steps: how many. Of the processes that train together, the first decides: the others go
            on until `stop` is set.
          stop: set when the first has made them.

        Returns:
          How many updates were made.
        """


def set_threads(intra_op: int, inter_op: int = 0) -> Any:
    """Set the sizes of this process' thread pools, and return TensorFlow.

    Args:
      intra_op: threads that one operation may use.
      inter_op: operations that may run at once; 0 leaves it to TensorFlow: as many as cores.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    tf.config.threading.set_inter_op_parallelism_threads(inter_op)
    return tf
