"""`wrap`, which adds backup workers to a Keras optimizer."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.checks import checked_int
from tf_backup.keras import _internals, _seams
from tf_backup.keras.optimizer import DEFAULT_STALL_TIMEOUT_S, SyncReplicasWithBackup
from tf_backup.keras.strategy_check import check_strategy


def wrap(
    optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
    replicas: int | str,
    backups: int = 0,
    *,
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
    max_staleness: int | None = 0,
    on_nonfinite: str = "drop",
    record_times: bool = True,
    on_shortage: str = "wait",
    least_replicas: int | None = None,
) -> SyncReplicasWithBackup:
    """Make an optimizer update with the mean of the first N of N + b workers' gradients.

    Call it in the scope of the strategy. Each update averages N gradients, so a learning rate
    tuned for one worker is usually multiplied by N.

    Example:

        strategy = tf_backup.parameter_server_strategy(workers=4, ps=1)
        with strategy.scope():
            model = keras.Sequential([...])
            optimizer = tf_backup.wrap(keras.optimizers.SGD(0.3), replicas=3, backups=1)
            model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(dataset, epochs=5)
        print(optimizer.contributions)

    Args:
      optimizer: any Keras optimizer, with any option; or a name or config of one for
        `keras.optimizers.get`, such as "adam".
      replicas: N, the number of gradients averaged in one update; at least 1. "auto": N changes
        during training, so that most gradients are used per second, by what is measured of the
        workers. It begins with all workers but `backups`, and stays at or below that. The learning
        rate is not changed with N.
      backups: b, the number of workers beyond N that nobody waits for.
      stall_timeout_s: seconds that `fit` waits with fewer than N workers alive before it raises
        `WorkersLost`.
      max_staleness: maximum staleness of a gradient that is used, in updates: 0 for synchronous
        SGD, None for no limit. `replicas=1, max_staleness=None` is asynchronous SGD, in which
        every gradient makes an update; use the learning rate of one worker, or a lower one.
      on_nonfinite: what to do with a gradient that has NaN or Inf. "drop": do not use it, count it
        in `contributions`, and log a warning now and then; if fewer than N workers compute finite
        gradients, raise `NonFiniteGradients`. "raise": raise `WorkerFailed`, which names the worker
        and the step. "keep": use it, as on one device, where it makes all weights NaN. Under a
        `LossScaleOptimizer` the policy is "keep": gradients overflow there by design, and Keras
        skips such updates.
      record_times: whether to record when each gradient arrives and what becomes of it, for
        `StragglerMonitor`. It costs about 1 ms per update; see docs/stragglers.md.

      on_shortage: what to do while fewer than N workers are alive. "wait": wait for them, and raise
        `WorkersLost` after `stall_timeout_s`. "shrink": make updates of as many gradients as
        workers are alive, at least one, and of N again as soon as there are N. Each change is
        logged. The learning rate stays as it is: an update is the mean of its gradients, so it is
        as large as before, and noisier. An epoch has the same number of updates, of fewer batches.
        "fill": let workers contribute more than once to an update, each time with their next batch,
        so that it still has N gradients. An update then takes longer, and the learning rate and the
        number of batches in an epoch need no change. For synchronous training only, like "shrink".
        docs/faults.md compares the three.

      least_replicas: with `replicas="auto"`, the smallest N; None for half of the workers, rounded
        up.

    Returns:
      An optimizer for `model.compile`.

    Raises:
      TypeError: if `optimizer` is not a Keras optimizer, or is wrapped already.
      ValueError: if a number is out of range or a choice is unknown, if `wrap` is called or
        `optimizer` was created outside a parameter-server strategy's scope, if the strategy has a
        `variable_partitioner`, or if its cluster has fewer than N + b workers.

    Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 1 to 4.
    """
    strategy = tf.distribute.get_strategy()
    most, least = _bounds(replicas, backups, least_replicas, strategy)
    wrapped = SyncReplicasWithBackup(
        optimizer,
        most,
        backups,
        stall_timeout_s,
        max_staleness=max_staleness,
        on_nonfinite=on_nonfinite,
        record_times=record_times,
        on_shortage=on_shortage,
        auto_least=least,
    )
    check_strategy(strategy, wrapped.policy)
    if _internals.strategy_of_optimizer(wrapped.inner_optimizer) is not strategy:
        raise ValueError(
            "The optimizer was created outside the strategy's scope, and its variables with it. "
            "Create it inside `with strategy.scope():`."
        )
    _seams.install()
    return wrapped


def _bounds(
    replicas: int | str, backups: int, least_replicas: int | None, strategy: Any
) -> tuple[Any, int | None]:
    """Return N, and its lower bound if it is to be chosen during training."""
    if replicas != "auto":
        if isinstance(replicas, str):
            raise ValueError(f'replicas is {replicas!r}; it must be an int, or "auto".')
        if least_replicas is not None:
            raise ValueError(
                f'least_replicas is {least_replicas!r}, a bound for replicas="auto", but replicas '
                f"is {replicas!r}."
            )
        return replicas, None
    if not runtime.is_parameter_server_strategy(strategy):
        raise ValueError(
            'replicas="auto" depends on the number of workers: call wrap inside `with '
            "strategy.scope():`, where strategy = tf_backup.parameter_server_strategy()."
        )
    workers = runtime.worker_count(strategy)
    most = workers - checked_int("backups", backups, 0)
    if most < 1:
        raise ValueError(
            f"backups is {backups}, but the cluster has {workers} worker(s): at least one must be "
            "left for an update."
        )
    return most, min(most, -(-workers // 2)) if least_replicas is None else least_replicas
