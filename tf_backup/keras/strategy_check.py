"""Check that a strategy can train with backup workers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.actors import coordinator
from tf_backup.policy import BackupPolicy


def check_strategy(strategy: Any, policy: BackupPolicy) -> None:
    """Check that SGD with backup workers can run under a strategy.

    Raises:
      ValueError: if it cannot; the message gives the reason and what to do.
    """
    if not runtime.is_parameter_server_strategy(strategy):
        given = "no strategy" if not tf.distribute.has_strategy() else type(strategy).__name__
        raise ValueError(
            f"tf_backup needs a parameter-server strategy, but found {given}. Call it inside "
            "`with strategy.scope():`, where strategy = tf_backup.parameter_server_strategy()."
        )
    if runtime.has_variable_partitioner(strategy):
        raise ValueError(
            "The strategy has a variable_partitioner, but Keras 3 cannot use the pieces of a "
            "variable. Make the strategy without it: tf_backup spreads whole variables over the "
            "parameter servers."
        )
    coordinator.of(strategy)
    policy.check_cluster(runtime.worker_count(strategy))
