"""Custom training loops without `fit`, for a function from a batch to a loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup import errors
from tf_backup._tf import runtime
from tf_backup.actors import coordinator
from tf_backup.actors.engine import Engine
from tf_backup.annotations import Tensor
from tf_backup.checks import checked_int
from tf_backup.keras import _internals
from tf_backup.keras.model_objective import objective_of
from tf_backup.keras.optimizer import SyncReplicasWithBackup, find, on_nonfinite
from tf_backup.keras.strategy_check import check_strategy
from tf_backup.keras.variables import KerasVariables
from tf_backup.worker_data import WorkerData


class Update(NamedTuple):
    """A completed update."""

    step: int  # t: the number of updates made by the optimizer, including this one
    loss: float  # the mean of the N losses


def minimize(
    loss: Callable[[Any], Tensor], model: Any, optimizer: Any, data: Any, updates: int
) -> Iterator[Update]:
    """Make updates that minimise a loss, and yield each when it is made.

    The guarantees of `fit` hold here, too: exactly N gradients, each used at most once, and so on.
    Between two updates the model may be evaluated or saved. Training ends, and the workers stop,
    when the iterator is exhausted, closed or garbage-collected.

    Example:

        with strategy.scope():
            model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
            optimizer = tf_backup.wrap(keras.optimizers.SGD(0.1), replicas=3, backups=1)

        def loss(batch):
            x, y = batch
            return keras.ops.mean((model(x, training=True) - y) ** 2) + sum(model.losses)

        for update in tf_backup.minimize(loss, model, optimizer, dataset, updates=1000):
            print(update.step, update.loss)

    Args:
      loss: function from a batch to a scalar, made of TensorFlow operations on the model and the
        batch. It is traced once and runs on workers. Metrics of the model that it updates are
        summed over the accepted batches.
      model: a built Keras model or layer, whose trainable variables are updated. It need not be
        compiled.
      optimizer: made by `wrap`; may be inside a LossScaleOptimizer.
      data: a `tf.data.Dataset` of batches, of which worker i reads every (N + b)-th, repeatedly
        if its length is known; or a function from `tf.distribute.InputContext` to one, read once.
      updates: number of updates to make.

    Returns:
      An iterator over the updates. It ends early, with a warning, when fewer than N workers have
      data left.

    Raises:
      TypeError: if the optimizer is not wrapped, `updates` is not an int, or the loss is not a
        floating-point scalar.
      ValueError: if `updates` is below 1, or the model is not built under the strategy.
      ParameterServerLost, WorkersLost, WorkerFailed: while iterating, as in `fit`.
    """
    wrapped = find(optimizer)
    if wrapped is None:
        raise TypeError(
            f"optimizer is {optimizer!r}; it must be made by tf_backup.wrap(optimizer, "
            "replicas=N, backups=b)."
        )
    updates = checked_int("updates", updates)
    strategy = _internals.strategy_of_optimizer(wrapped.inner_optimizer)
    check_strategy(strategy, wrapped.policy)
    if not model.built or not model.trainable_variables:
        raise ValueError(
            "the model has no trainable variables yet: call it on a batch, or model.build(shape), "
            "inside `with strategy.scope():`."
        )
    with strategy.scope():
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
    with runtime.outside_strategy():
        batches = WorkerData(data, wrapped.policy.workers)
        engine = _engine(strategy, loss, model, optimizer, wrapped, batches.element_spec)
    return _updates(coordinator.of(strategy), engine, wrapped, batches, updates)


def _engine(
    strategy: Any,
    loss: Callable[[Any], Tensor],
    model: Any,
    optimizer: Any,
    wrapped: SyncReplicasWithBackup,
    element_spec: Any,
) -> Engine:
    """Return the engine that minimises a loss."""

    def value(batch: Any) -> tuple[Tensor, Callable[[], Any]]:
        scalar = tf.convert_to_tensor(loss(batch))
        if scalar.shape.rank != 0 or not scalar.dtype.is_floating:
            raise TypeError(
                f"loss returned a tensor of shape {scalar.shape} and dtype {scalar.dtype.name}; it "
                "must be a floating-point scalar: the mean over the batch, usually."
            )
        return scalar, lambda: [scalar]

    variables = KerasVariables(model, optimizer)
    variables.check_placed()
    objective = objective_of(variables, optimizer, value, lambda reports: reports[0], element_spec)
    engine = Engine(
        strategy,
        wrapped.policy,
        objective,
        element_spec,
        wrapped.stall_timeout_s,
        on_nonfinite(optimizer),
        wrapped.listeners,
    )
    wrapped.report_to(engine)
    return engine


def _updates(
    of_strategy: coordinator.Coordinator,
    engine: Engine,
    wrapped: SyncReplicasWithBackup,
    batches: WorkerData,
    updates: int,
) -> Iterator[Update]:
    """Make the updates; the strategy's scope is left only while the generator runs."""
    failed = True
    try:
        with runtime.outside_strategy():
            pipelines = batches.start()
        with of_strategy.repeating_signals():
            for index in range(updates):
                with runtime.outside_strategy():
                    if not engine.active:  # At first, and after another run.
                        engine.begin(pipelines, step=int(wrapped.iterations))
                    loss = engine.step(last=index + 1 == updates)
                if loss is None:
                    warnings.warn(
                        f"The data ended after {index} of {updates} updates: fewer than N workers "
                        "have any left. Let the data sets .repeat().",
                        stacklevel=2,
                    )
                    break
                yield Update(int(wrapped.iterations), float(loss))
        failed = False
    except GeneratorExit:
        failed = False
        raise
    finally:
        with runtime.outside_strategy():
            _close(engine, wrapped, failed)


def _close(engine: Engine, wrapped: SyncReplicasWithBackup, failed: bool) -> None:
    """End training; if it has failed already, ignore errors of the cluster."""
    try:
        engine.close(failed)
        _ = wrapped.contributions  # Read while the engine exists.
    except (errors.TfBackupError, tf.errors.OpError):
        engine.abandon()
        if not failed:
            raise
    finally:
        wrapped.stop_listening()
