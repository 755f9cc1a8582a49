"""Private Keras APIs: hooks into `fit`, `evaluate`, `predict` and saving.

`install` patches Keras' TensorFlow trainer and optimizers. The patches change nothing for models
outside of parameter-server strategies; models under one cannot be trained by Keras 3 itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_backup._tf import runtime, strategies
from tf_backup.actors import coordinator
from tf_backup.annotations import Model
from tf_backup.keras import _private_keras
from tf_backup.keras._internals import strategy_of
from tf_backup.keras.fit import Hooks

_lock = threading.Lock()
_installed = False


def install() -> None:
    """Make Keras' `fit` and `evaluate` work under parameter-server strategies from now on.

    Also makes Keras save and load wrapped optimizers. Further calls do nothing.
    """
    global _installed
    with _lock:
        if not _installed:
            _patch(Hooks())
            _installed = True


def _patch(hooks: Hooks) -> None:
    """Replace methods of Keras by functions that call them, each in one step.

    Other threads may use Keras meanwhile: their models have no strategy, so nothing changes.
    """
    module = _private_keras.trainer
    trainer, optimizer = module.TensorFlowTrainer, keras.optimizers.Optimizer
    module.TFEpochIterator = _epoch_iterator(module.TFEpochIterator, hooks)
    trainer.fit = _fit(trainer.fit, hooks)
    trainer.evaluate = _outside(trainer.evaluate)
    trainer.predict = _outside(trainer.predict, strategies.running_here)
    trainer._maybe_symbolic_build = _build(trainer._maybe_symbolic_build, hooks)
    trainer.make_train_function = _train_function(trainer.make_train_function, hooks)
    trainer.make_test_function = _test_function(trainer.make_test_function, hooks)
    trainer.get_compile_config = _get_config(trainer.get_compile_config, hooks)
    trainer.compile_from_config = _compile_from(trainer.compile_from_config, hooks)
    optimizer.add_variable_from_reference = _beside(optimizer.add_variable_from_reference)


def _epoch_iterator(original: Any, hooks: Hooks) -> Any:
    @functools.wraps(original, updated=())  # A class, whose attributes are not the function's.
    def epoch_iterator(distribute_strategy: Any = None, *args: Any, **data: Any) -> Any:
        if not runtime.is_parameter_server_strategy(distribute_strategy):
            return original(distribute_strategy, *args, **data)
        feed = hooks.feed(distribute_strategy, **data) if "y" in data else None
        if feed is None:  # For predict, and for evaluate on data that only this process can read.
            feed = original(tf.distribute.get_strategy(), *args, **data)
        return feed

    return epoch_iterator


def _fit(original: Any, hooks: Hooks) -> Any:
    @functools.wraps(original)
    def fit(self: Model, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(self, *args, **kwargs).arguments
        hooks.check_fit(self, dict(given))
        if strategy_of(self) is None:
            return original(self, *args, **kwargs)
        failed = True
        of_strategy = coordinator.of(strategy_of(self))
        with runtime.outside_strategy(), of_strategy.told_plainly():
            try:
                with of_strategy.repeating_signals():
                    history = original(self, *args, **kwargs)
                failed = False
            finally:
                hooks.end_fit(self, failed)
        return history

    return fit


def _outside(original: Any, context: Callable[[], Any] = contextlib.nullcontext) -> Any:
    """Wrap a method to leave the strategy's scope and to enter a context."""

    @functools.wraps(original)
    def method(self: Model, *args: Any, **kwargs: Any) -> Any:
        strategy = strategy_of(self)
        if strategy is None:
            return original(self, *args, **kwargs)
        of_strategy = coordinator.of(strategy)
        with (
            runtime.outside_strategy(),
            of_strategy.told_plainly(),
            of_strategy.repeating_signals(),
            context(),
        ):
            return original(self, *args, **kwargs)

    return method


def _build(original: Any, hooks: Hooks) -> Any:
    @functools.wraps(original)
    def build(self: Model, iterator: Any = None, data_batch: Any = None) -> Any:
        if strategy_of(self) is None or iterator is None:
            return original(self, iterator=iterator, data_batch=data_batch)
        return hooks.build(self, iterator)

    return build


def _train_function(original: Any, hooks: Hooks) -> Any:
    @functools.wraps(original)
    def make_train_function(self: Model, force: bool = False) -> Any:
        if strategy_of(self) is None:
            return original(self, force)
        if force or self.train_function is None:
            self.train_function = hooks.train_function(self)
        hooks.begin_training(self)
        return self.train_function

    return make_train_function


def _test_function(original: Any, hooks: Hooks) -> Any:
    @functools.wraps(original)
    def make_test_function(self: Model, force: bool = False) -> Any:
        if strategy_of(self) is None:
            return original(self, force)
        if force or self.test_function is None:
            self.test_function = hooks.test_function(self)
        return self.test_function

    return make_test_function


def _get_config(original: Any, hooks: Hooks) -> Any:
    @functools.wraps(original)
    def get_compile_config(self: Model) -> Any:
        config = original(self)
        if config.get("optimizer"):
            config["optimizer"] = hooks.optimizer_to_save(config["optimizer"])
        return config

    return get_compile_config


def _compile_from(original: Any, hooks: Hooks) -> Any:
    @functools.wraps(original)
    def compile_from_config(self: Model, config: Any) -> Any:
        if strategy_of(self) is not None and config.get("optimizer"):
            config = {**config, "optimizer": hooks.optimizer_to_load(config["optimizer"])}
        return original(self, config)

    return compile_from_config


def _beside(original: Any) -> Any:
    """Place the slots of optimizers (momentum, for example) on the server of their variable.

    Otherwise, updates would send them from one parameter server to another.
    """

    @functools.wraps(original)
    def add(self: Any, reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        variable = getattr(reference_variable, "_value", None)
        if (
            not runtime.is_parameter_server_strategy(tf.distribute.get_strategy())
            or variable is None
        ):
            return original(self, reference_variable, *args, **kwargs)
        with runtime.beside(variable):
            return original(self, reference_variable, *args, **kwargs)

    return add
