"""What Keras' own `fit` and `evaluate` do with a model under a parameter-server strategy."""

from __future__ import annotations

import logging
from typing import Any

import keras
import tensorflow as tf

from tf_backup import _keras, _tf, errors
from tf_backup.engine import Engine
from tf_backup.evaluation import Evaluation
from tf_backup.feed import Feed
from tf_backup.keras_objective import KerasVariables, keras_objective, keras_sums
from tf_backup.optimizer import (
    DEFAULT_STALL_TIMEOUT_S,
    SyncReplicasWithBackup,
    check_strategy,
    find,
)
from tf_backup.snapshot import Snapshot

log = logging.getLogger(__name__)

Model = Any


class TrainFunction:
    """Makes one update per call; keeps the engine from one `fit` to the next.

    Args:
      model: compiled with a wrapped optimizer.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._wrapped = find(model.optimizer)
        self._spec: Any = None
        self.engine: Engine | None = None

    def __call__(self, feed: Feed) -> Any:
        """Makes one update (or `steps_per_execution`).

        Returns:
          The model's metrics.

        Raises:
          StopIteration: if too few workers have data left.
        """
        _check_feed(feed, "train_on_batch")
        engine = self._engine_for(feed)
        logs = None
        if not engine.active:
            assert self._wrapped is not None
            engine.begin(feed.iterators(), step=int(self._wrapped.iterations))
        for turn in range(feed.count):
            last = feed.last and turn + 1 == feed.count
            results = engine.step(last)
            if results is None:
                engine.end()
                if logs is None:
                    raise StopIteration
                break
            logs = results
        if feed.last:
            engine.end()
        return logs

    def _engine_for(self, feed: Feed) -> Engine:
        """Returns the engine for batches of the feed's spec."""
        spec = feed.data.element_spec
        if self.engine is None or spec != self._spec:
            assert self._wrapped is not None
            self._spec = spec
            engine = Engine(
                feed.strategy,
                self._wrapped.policy,
                keras_objective(self._model),
                spec,
                self._wrapped.stall_timeout_s,
            )
            self._wrapped.report_to(engine.contributions)
            self.engine = engine
        return self.engine


class TestFunction:
    """Evaluates a model on all workers, in one call.

    Args:
      model: compiled.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._variables = KerasVariables(model)
        self._evaluation: Evaluation | None = None

    def __call__(self, feed: Feed) -> Any:
        """Evaluates all of the feed's data; returns the model's metrics."""
        _check_feed(feed, "test_on_batch")
        train = self._model.train_function
        if isinstance(train, TrainFunction) and train.engine is not None:
            train.engine.end()  # Else the workers would be waiting for the next step for ever.
        if self._evaluation is None:
            wrapped = find(self._model.optimizer)
            self._evaluation = Evaluation(
                feed.strategy,
                Snapshot(self._variables.read()),
                lambda values, batch: keras_sums(self._model, self._variables, values, batch),
                [tf.zeros(v.shape, v.dtype) for v in self._variables.sums],
                wrapped.stall_timeout_s if wrapped else DEFAULT_STALL_TIMEOUT_S,
            )
        sums = self._evaluation.run(feed.data)
        for variable, more in zip(self._variables.sums, sums, strict=True):
            variable.assign(variable + more)
        feed.done = True
        return self._model.get_metrics_result()


class _Hooks:
    """What Keras calls; see `_keras.Hooks`."""

    def check_fit(self, model: Model) -> None:
        wrapped = find(getattr(model, "optimizer", None))
        strategy = _keras.strategy_of(model)
        if strategy is None:
            if wrapped is not None:
                raise ValueError(
                    "The model's optimizer is wrapped by tf_backup, but the model was not created "
                    "under a parameter-server strategy. Create (or load) it inside `with "
                    "strategy.scope():`, or compile it with optimizer.inner_optimizer."
                )
            return
        if not model.compiled:
            return  # Keras says so.
        if wrapped is None:
            raise ValueError(
                "The model was created under a parameter-server strategy, which trains only with "
                "a wrapped optimizer: compile it with tf_backup.wrap(optimizer, replicas=N, "
                "backups=b)."
            )
        check_strategy(strategy, wrapped.policy)
        if model.run_eagerly:
            raise ValueError(
                "run_eagerly=True cannot work: the workers run graphs. Compile the model without "
                "it, and debug on one device."
            )
        if _keras.has_own_step(model, "train_step"):
            raise ValueError(
                f"{type(model).__name__} overrides train_step, which the workers cannot run yet. "
                "Override compute_loss instead, or train it on one device."
            )

    def end_fit(self, model: Model, failed: bool) -> None:
        train = model.train_function
        if not isinstance(train, TrainFunction) or train.engine is None:
            return
        try:
            train.engine.close()
        except (errors.TfBackupError, tf.errors.OpError):
            train.engine.abandon()
            if not failed:
                raise
            log.warning("The cluster is lost; the last counts of contributions are missing.")

    def feed(self, strategy: Any, **data: Any) -> Any:
        return Feed(strategy, **data)

    def build(self, model: Model, feed: Feed) -> None:
        wrapped = find(model.optimizer)
        if feed.training and wrapped is not None:
            feed.bind(wrapped.policy.workers, wrapped.replicas)
        else:
            feed.bind(_tf.worker_count(feed.strategy), 1)
        _keras.build(model, feed.data.element_spec)
        KerasVariables(model).check_placed()

    def train_function(self, model: Model) -> Any:
        return TrainFunction(model)

    def test_function(self, model: Model) -> Any:
        if _keras.has_own_step(model, "test_step"):
            raise ValueError(
                f"{type(model).__name__} overrides test_step, which the workers cannot run yet. "
                "Override compute_loss and compute_metrics instead."
            )
        return TestFunction(model)


def _check_feed(feed: Any, method: str) -> None:
    if not isinstance(feed, Feed):
        raise ValueError(
            f"{method} cannot work on a parameter-server strategy: no worker has the batch. Use "
            "fit or evaluate, or a model of its own on one device."
        )


def wrap(
    optimizer: keras.optimizers.Optimizer,
    replicas: int,
    backups: int = 0,
    *,
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
) -> SyncReplicasWithBackup:
    """Makes an optimizer update with the mean of the first N of N + b workers' gradients.

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
      optimizer: any Keras optimizer, with any option.
      replicas: N, gradients averaged in one update; at least 1.
      backups: b, workers beyond N that nobody waits for.
      stall_timeout_s: how long `fit` waits, with fewer than N workers alive, for one to come
        back before it raises `WorkersLost`.

    Returns:
      An optimizer for `model.compile`.

    Raises:
      TypeError: if `optimizer` is no Keras optimizer, or is wrapped already.
      ValueError: outside a parameter-server strategy's scope, if the strategy has a
        `variable_partitioner`, or if its cluster has fewer than N + b workers.

    Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 3 and 4.
    """
    wrapped = SyncReplicasWithBackup(optimizer, replicas, backups, stall_timeout_s)
    strategy = tf.distribute.get_strategy()
    check_strategy(strategy, wrapped.policy)
    if _keras.strategy_of_optimizer(optimizer) is not strategy:
        raise ValueError(
            "The optimizer was created outside the strategy's scope, and its variables with it. "
            "Create it inside `with strategy.scope():`."
        )
    _keras.install(_Hooks())
    return wrapped
