"""Keras `fit` and `evaluate` under a parameter-server strategy."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import keras
import tensorflow as tf

from tf_backup import errors
from tf_backup.actors import coordinator
from tf_backup.annotations import Model
from tf_backup.checks import checked_int
from tf_backup.keras import _adapters, _internals
from tf_backup.keras.feed import Feed
from tf_backup.keras.functions import TestFunction, TrainFunction
from tf_backup.keras.optimizer import find
from tf_backup.keras.saved_config import unwrapped, wrapped_again
from tf_backup.keras.strategy_check import check_strategy
from tf_backup.keras.variables import KerasVariables
from tf_backup.worker_data import Immovable

log = logging.getLogger(__name__)


class Hooks:
    """What `_seams` makes Keras call for models under a parameter-server strategy."""

    def __init__(self) -> None:
        self._observed: weakref.WeakKeyDictionary[Model, bool] = weakref.WeakKeyDictionary()
        self._feeds: weakref.WeakKeyDictionary[Model, Feed] = weakref.WeakKeyDictionary()

    def check_fit(self, model: Model, arguments: dict[str, Any]) -> None:
        """Check the model and the arguments of `fit`, by name, before training; may raise."""
        self._observed[model] = _internals.only_look(arguments.get("callbacks"))
        wrapped = find(getattr(model, "optimizer", None))
        strategy = _internals.strategy_of(model)
        if strategy is None:
            if wrapped is not None:
                raise ValueError(
                    "The model's optimizer is wrapped by tf_backup, but the model was not created "
                    "under a parameter-server strategy. Create (or load) it inside `with "
                    "strategy.scope():`, or compile it with optimizer.inner_optimizer."
                )
            return
        if not model.compiled:
            return  # Keras raises its own error.
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
        """Clean up at the end of `fit`, however it ends."""
        feed = self._feeds.pop(model, None)
        if feed is not None:
            feed.close()  # First, because workers may be waiting for it.
        train = model.train_function
        if not isinstance(train, TrainFunction):
            return
        try:
            train.close(failed)
        except (errors.TfBackupError, tf.errors.OpError):
            if not failed:
                raise
            log.warning("The cluster is lost; the last counts of contributions are missing.")

    def feed(self, strategy: Any, **data: Any) -> Any:
        """Return the epoch iterator; None to use Keras' own, in this process."""
        training = "class_weight" in data
        if not training and _adapters.is_python(data["x"]):
            return None
        try:
            return Feed(strategy, **data)
        except Immovable:
            if training or not isinstance(data["x"], tf.data.Dataset):
                raise
            return None

    def build(self, model: Model, feed: Any) -> None:
        """Create all variables before the first step, given the epoch iterator."""
        wrapped = find(model.optimizer)
        if isinstance(feed, Feed) and feed.training:
            assert wrapped is not None  # Checked by `check_fit`.
            feed.bind(wrapped.policy.workers, wrapped.replicas)
            self._feeds[model] = feed
        with coordinator.of(_internals.strategy_of(model)).tracing():
            _internals.build(model, _adapters.element_spec(feed))
        KerasVariables(model, model.optimizer).check_placed()

    def train_function(self, model: Model) -> Any:
        """Return the function that `fit` calls with the feed for each step."""
        return TrainFunction(model)

    def begin_training(self, model: Model) -> None:
        """Prepare for training; called by `fit` once the train function exists."""
        model.train_function.observed = self._observed.get(model, False)

    def test_function(self, model: Model) -> Any:
        """Return the function that `evaluate` calls with the feed for each step."""
        return TestFunction(model)

    def optimizer_to_save(self, serialized: Any) -> Any:
        """Return the config to save for a model's optimizer, given Keras' own."""
        return unwrapped(serialized)

    def optimizer_to_load(self, serialized: Any) -> Any:
        """Return the config to load an optimizer from, given the saved one."""
        return wrapped_again(serialized)


def _is_wrapped(value: Any) -> bool:
    return isinstance(value, keras.optimizers.Optimizer) and find(value) is not None
