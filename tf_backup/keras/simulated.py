"""Virtual clusters that train Keras models."""

from __future__ import annotations

from typing import Any

import keras

from tf_backup.keras import _internals
from tf_backup.keras.custom_step import step_objective
from tf_backup.keras.model_objective import keras_objective
from tf_backup.keras.optimizer import find
from tf_backup.policy import BackupPolicy
from tf_backup.simulation.delays import Durations
from tf_backup.simulation.virtual_cluster import VirtualCluster
from tf_backup.worker_data import WorkerData


def virtual_cluster(
    model: keras.Model,
    policy: BackupPolicy,
    durations: Durations,
    data: Any,
    *,
    update_s: float = 0.0,
    seed: int = 0,
    on_nonfinite: str = "drop",
) -> VirtualCluster:
    """Return N + b virtual workers that train a model on a virtual clock, in this process.

    The result is that of a cluster whose workers take as long as `durations` says. The model is
    trained in place, so `model.evaluate`, `model.save` and so on work between two calls of `run`.

    Example:
      model.compile(keras.optimizers.SGD(0.1), "mse")
      cluster = virtual_cluster(model, BackupPolicy(8, 1), Exponential(0.1, 0.05), dataset)
      updates = cluster.run(100)
      print(updates[-1].time, updates[-1].logs["loss"])

    Args:
      model: compiled with a plain optimizer, which updates with the mean of N gradients.
      policy: N, b and the bound on staleness.
      durations: how long workers compute a gradient; see `simulation.delays`.
      data: a `tf.data.Dataset` of batches, of which worker i reads every (N + b)-th, again and
        again; or a function from `tf.distribute.InputContext` to the data set of one worker.
      update_s: time from an update's start to its release, in virtual seconds.
      seed: seed of the durations, and of shuffles without a seed.
      on_nonfinite: what to do with a gradient that has NaN or Inf: "drop", "raise" or "keep"; see
        `wrap`. Always "keep" with a LossScaleOptimizer.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if the model or the data cannot be used; the message gives the reason.
    """
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(
            "the model is not compiled with an optimizer. Call "
            'model.compile(keras.optimizers.SGD(0.1), loss="mse") first, or similar.'
        )
    if find(model.optimizer) is not None:
        raise ValueError(
            "the model's optimizer is wrapped, so it waits for the workers of a cluster. Compile "
            "the model with the optimizer itself: `policy` has N and b."
        )
    if _internals.strategy_of(model) is not None:
        raise ValueError(
            "the model was created under a parameter-server strategy, but virtual workers compute "
            "in this process. Create it outside the strategy's scope."
        )
    workers = WorkerData(data, policy.workers, seed=seed)
    _internals.build(model, workers.element_spec)
    model.reset_metrics()
    own = _internals.has_own(model, "train_step")
    objective = (step_objective if own else keras_objective)(model, workers.element_spec)
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        on_nonfinite = "keep"  # Gradients overflow now and then by design.
    return VirtualCluster(
        objective,
        policy,
        durations,
        workers,
        update_s=update_s,
        seed=seed,
        step=int(model.optimizer.iterations),
        on_nonfinite=on_nonfinite,
        model=model.name,
    )
