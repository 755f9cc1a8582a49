"""What Keras' own `fit` and `evaluate` do with a model under a parameter-server strategy."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import keras
import tensorflow as tf

from tf_backup import _keras, _keras_seams, _tf, coordinator, errors
from tf_backup.checks import checked_int
from tf_backup.engine import AHEAD, Engine
from tf_backup.evaluation import Evaluation
from tf_backup.feed import Feed
from tf_backup.keras_objective import keras_measurement, keras_objective
from tf_backup.keras_step import step_measurement, step_objective
from tf_backup.keras_variables import KerasVariables
from tf_backup.optimizer import (
    DEFAULT_STALL_TIMEOUT_S,
    SyncReplicasWithBackup,
    check_strategy,
    find,
    unwrapped,
    wrapped_again,
)

log = logging.getLogger(__name__)

Model = Any


class TrainFunction:
    """Makes one update per call; keeps the engine from one `fit` to the next.

    Args:
      model: compiled with a wrapped optimizer.

    Attributes:
      observed: whether the callbacks of this `fit` only look at what is reported of an update.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._wrapped = find(model.optimizer)
        self._spec: Any = None
        self.engine: Engine | None = None
        self.observed = False

    def __call__(self, feed: Feed) -> Any:
        """Makes one update (or `steps_per_execution`).

        Where callbacks only look (`observed`), the updates behind it may have been made already.

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
            engine.begin(feed.pipelines(), step=int(self._wrapped.iterations))
        for turn in range(feed.count):
            ahead, last = feed.count - turn, feed.count == feed.remaining
            if self.observed and feed.remaining is not None:
                ahead, last = feed.remaining - turn, True
            elif self.observed:
                ahead = AHEAD
            results = engine.step(ahead, last)
            if results is None:
                engine.end()
                if logs is None:
                    raise StopIteration
                break
            logs = results
        return logs

    def note_accounts(self) -> None:
        """Lets the optimizer read the accounts, while the engine is there."""
        assert self._wrapped is not None
        _ = self._wrapped.contributions

    def _engine_for(self, feed: Feed) -> Engine:
        """Returns the engine for batches of the feed's spec."""
        spec = feed.data.element_spec
        if self.engine is None or spec != self._spec:
            assert self._wrapped is not None
            own = _keras.has_own_step(self._model, "train_step")
            objective = (step_objective if own else keras_objective)(self._model, spec)
            engine = Engine(
                feed.strategy,
                self._wrapped.policy,
                objective,
                feed.data.element_spec,
                self._wrapped.stall_timeout_s,
            )
            self._spec = spec
            self._wrapped.report_to(engine)
            self.engine = engine
        return self.engine


class TestFunction:
    """Evaluates a model on all workers, in one call.

    Args:
      model: compiled.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._spec: Any = None
        self._evaluation: Evaluation | None = None

    def __call__(self, feed: Feed) -> Any:
        """Evaluates all of the feed's data; returns the model's metrics."""
        _check_feed(feed, "test_on_batch")
        logs = self._evaluation_for(feed).run(feed.data)
        feed.done = True
        return logs

    def _evaluation_for(self, feed: Feed) -> Evaluation:
        """Returns the evaluation for batches of the feed's spec."""
        spec = feed.data.element_spec
        if self._evaluation is None or spec != self._spec:
            own = _keras.has_own_step(self._model, "test_step")
            measurement = (step_measurement if own else keras_measurement)(self._model, spec)
            wrapped = find(self._model.optimizer)
            timeout = wrapped.stall_timeout_s if wrapped else DEFAULT_STALL_TIMEOUT_S
            self._evaluation = Evaluation(feed.strategy, measurement, spec, timeout)
            self._spec = spec
        return self._evaluation


class _Hooks:
    """What Keras calls; see `_keras_seams.Hooks`."""

    def __init__(self) -> None:
        self._observed: weakref.WeakKeyDictionary[Model, bool] = weakref.WeakKeyDictionary()

    def check_fit(self, model: Model, arguments: dict[str, Any]) -> None:
        self._observed[model] = _keras.only_look(arguments.get("callbacks"))
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
            own = [name for name, value in vars(model).items() if _is_wrapped(value)]
            if own:
                raise ValueError(
                    f"The model's own optimizers ({', '.join(own)}) are wrapped, but fit trains "
                    "with the one that compile is given: a step is one update of N gradients. "
                    "Give super().compile(optimizer=...) a wrapped one, and let train_step apply "
                    "it once; two networks with an optimizer each (a GAN) train on one device."
                )
            raise ValueError(
                "The model was created under a parameter-server strategy, which trains only with "
                "a wrapped optimizer: compile it with tf_backup.wrap(optimizer, replicas=N, "
                "backups=b)."
            )
        check_strategy(strategy, wrapped.policy)
        if arguments.get("validation_steps") is not None:
            checked_int("validation_steps", arguments["validation_steps"])
        if model.run_eagerly:
            raise ValueError(
                "run_eagerly=True cannot work: the workers run graphs. Compile the model without "
                "it, and debug on one device."
            )

    def end_fit(self, model: Model, failed: bool) -> None:
        train = model.train_function
        if not isinstance(train, TrainFunction) or train.engine is None:
            return
        try:
            train.engine.close()
            train.note_accounts()
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
        with coordinator.of(feed.strategy).tracing():
            _keras.build(model, feed.data.element_spec)
        KerasVariables(model, model.optimizer).check_placed()

    def train_function(self, model: Model) -> Any:
        return TrainFunction(model)

    def begin_training(self, model: Model) -> None:
        model.train_function.observed = self._observed.get(model, False)

    def test_function(self, model: Model) -> Any:
        return TestFunction(model)

    def optimizer_to_save(self, serialized: Any) -> Any:
        return unwrapped(serialized)

    def optimizer_to_load(self, serialized: Any) -> Any:
        return wrapped_again(serialized)


def install() -> None:
    """Lets Keras' `fit` and `evaluate` work under parameter-server strategies, from now on.

    Also lets Keras find the wrapped optimizer in files.
    """
    _keras_seams.install(_Hooks())


def _is_wrapped(value: Any) -> bool:
    return isinstance(value, keras.optimizers.Optimizer) and find(value) is not None


def _check_feed(feed: Any, method: str) -> None:
    if not isinstance(feed, Feed):
        raise ValueError(
            f"{method} cannot work on a parameter-server strategy: no worker has the batch. Use "
            "fit or evaluate, or a model of its own on one device."
        )


def wrap(
    optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
    replicas: int,
    backups: int = 0,
    *,
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
    max_staleness: int | None = 0,
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
      optimizer: any Keras optimizer, with any option; or what `keras.optimizers.get` makes one of,
        such as "adam".
      replicas: N, gradients averaged in one update; at least 1.
      backups: b, workers beyond N that nobody waits for.
      stall_timeout_s: how long `fit` waits, with fewer than N workers alive, for one to come
        back before it raises `WorkersLost`.
      max_staleness: how many updates old a gradient may be when it is used: 0 for synchronous
        SGD, None for any. With `replicas=1, max_staleness=None` every gradient is an update of
        its own: asynchronous SGD; its learning rate is that of one worker, or lower.

    Returns:
      An optimizer for `model.compile`.

    Raises:
      TypeError: if `optimizer` is no Keras optimizer, or is wrapped already.
      ValueError: if a number is out of range, outside a parameter-server strategy's scope, if
        the strategy has a `variable_partitioner`, or if its cluster has fewer than N + b workers.

    Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 1 to 4.
    """
    wrapped = SyncReplicasWithBackup(
        optimizer, replicas, backups, stall_timeout_s, max_staleness=max_staleness
    )
    strategy = tf.distribute.get_strategy()
    check_strategy(strategy, wrapped.policy)
    if _keras.strategy_of_optimizer(wrapped.inner_optimizer) is not strategy:
        raise ValueError(
            "The optimizer was created outside the strategy's scope, and its variables with it. "
            "Create it inside `with strategy.scope():`."
        )
    install()
    return wrapped
