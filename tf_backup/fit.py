"""What Keras' own `fit` and `evaluate` do with a model under a parameter-server strategy."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import keras
import tensorflow as tf

from tf_backup import _keras, _keras_data, _keras_seams, coordinator, errors
from tf_backup.checks import checked_int
from tf_backup.data import Immovable
from tf_backup.feed import Feed
from tf_backup.keras_functions import TestFunction, TrainFunction
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


class _Hooks:
    """What Keras calls; see `_keras_seams.Hooks`."""

    def __init__(self) -> None:
        self._observed: weakref.WeakKeyDictionary[Model, bool] = weakref.WeakKeyDictionary()
        self._feeds: weakref.WeakKeyDictionary[Model, Feed] = weakref.WeakKeyDictionary()

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
        feed = self._feeds.pop(model, None)
        if feed is not None:
            feed.close()  # First: workers may wait for it.
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
        training = "class_weight" in data
        if not training and _keras_data.is_python(data["x"]):
            return None
        try:
            return Feed(strategy, **data)
        except Immovable:
            if training or not isinstance(data["x"], tf.data.Dataset):
                raise
            return None

    def build(self, model: Model, feed: Any) -> None:
        wrapped = find(model.optimizer)
        if isinstance(feed, Feed) and feed.training:
            assert wrapped is not None  # `check_fit` has seen to it.
            feed.bind(wrapped.policy.workers, wrapped.replicas)
            self._feeds[model] = feed
        with coordinator.of(_keras.strategy_of(model)).tracing():
            _keras.build(model, _keras_data.element_spec(feed))
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
