"""Private Keras APIs: hooks into `fit`, `evaluate`, `predict` and saving.

`install` patches Keras' TensorFlow trainer and optimizers. The patches change nothing for models
outside of parameter-server strategies; models under one cannot be trained by Keras 3 itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as keras_trainer

from tf_backup._tf import runtime
from tf_backup.actors import coordinator
from tf_backup.annotations import Model
from tf_backup.keras._internals import strategy_of

_SEAMS = ("fit", "evaluate", "predict", "make_train_function", "make_test_function")
_SAVING = ("get_compile_config", "compile_from_config")
_PRIVATE = ("_maybe_symbolic_build", "_symbolic_build", "_compute_loss", "compute_metrics")


class Hooks(Protocol):
    """Methods that patched Keras calls for models under a parameter-server strategy."""

    def check_fit(self, model: Model, arguments: dict[str, Any]) -> None:
        """Check the model and the arguments of `fit`, by name, before training; may raise."""

    def end_fit(self, model: Model, failed: bool) -> None:
        """Clean up at the end of `fit`, however it ends."""

    def feed(self, strategy: Any, **data: Any) -> Any:
        """Return the epoch iterator; None to use Keras' own, in this process."""

    def build(self, model: Model, feed: Any) -> None:
        """Create all variables before the first step, given the epoch iterator."""

    def train_function(self, model: Model) -> Any:
        """Return the function that `fit` calls with the feed for each step."""

    def begin_training(self, model: Model) -> None:
        """Prepare for training; called by `fit` once the train function exists."""

    def test_function(self, model: Model) -> Any:
        """Return the function that `evaluate` calls with the feed for each step."""

    def optimizer_to_save(self, serialized: Any) -> Any:
        """Return the config to save for a model's optimizer, given Keras' own."""

    def optimizer_to_load(self, serialized: Any) -> Any:
        """Return the config to load an optimizer from, given the saved one."""


_installed = False


def install(hooks: Hooks) -> None:
    """Patch Keras; further calls do nothing.

    Raises:
      ImportError: if this version of Keras lacks a method that the patches rely on.
    """
    global _installed
    if _installed:
        return
    trainer = keras_trainer.TensorFlowTrainer
    names = [*_SEAMS, *_SAVING, *_PRIVATE]
    missing = [name for name in names if not callable(getattr(trainer, name, None))]
    if not hasattr(keras_trainer, "TFEpochIterator"):
        missing.append("TFEpochIterator")
    if missing:
        raise ImportError(
            f"Keras {keras.__version__} has no {', '.join(missing)} in its TensorFlow trainer, "
            "which tf_backup relies on. Install the Keras that tf_backup's setup.py names."
        )
    _install_iterator(hooks)
    _install_fit(trainer, hooks)
    _install_functions(trainer, hooks)
    _install_slots()
    _install_saving(trainer, hooks)
    _installed = True


def _install_iterator(hooks: Hooks) -> None:
    original = keras_trainer.TFEpochIterator

    def epoch_iterator(distribute_strategy: Any = None, *args: Any, **data: Any) -> Any:
        if not runtime.is_parameter_server_strategy(distribute_strategy):
            return original(distribute_strategy, *args, **data)
        feed = hooks.feed(distribute_strategy, **data) if "y" in data else None
        if feed is None:  # For predict, and for evaluate on data that only this process can read.
            feed = original(tf.distribute.get_strategy(), *args, **data)
        return feed

    keras_trainer.TFEpochIterator = epoch_iterator


def _install_fit(trainer: Any, hooks: Hooks) -> None:
    fit = trainer.fit

    @functools.wraps(fit)
    def managed_fit(self: Model, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(fit).bind(self, *args, **kwargs).arguments
        hooks.check_fit(self, dict(given))
        if strategy_of(self) is None:
            return fit(self, *args, **kwargs)
        failed = True
        with runtime.outside_strategy(), coordinator.of(strategy_of(self)).told_plainly():
            try:
                history = fit(self, *args, **kwargs)
                failed = False
            finally:
                coordinator.of(strategy_of(self)).servers.forget_signal()
                hooks.end_fit(self, failed)
        return history

    trainer.fit = managed_fit
    trainer.evaluate = _outside(trainer.evaluate)
    trainer.predict = _outside(trainer.predict, runtime.running_here)


def _install_slots() -> None:
    """Place the slots of optimizers (momentum, for example) on the server of their variable.

    Otherwise, updates would send them from one parameter server to another.
    """
    optimizer = keras.optimizers.Optimizer
    add = optimizer.add_variable_from_reference

    @functools.wraps(add)
    def managed(self: Any, reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        variable = getattr(reference_variable, "_value", None)
        if (
            not runtime.is_parameter_server_strategy(tf.distribute.get_strategy())
            or variable is None
        ):
            return add(self, reference_variable, *args, **kwargs)
        with runtime.beside(variable):
            return add(self, reference_variable, *args, **kwargs)

    optimizer.add_variable_from_reference = managed


def _install_saving(trainer: Any, hooks: Hooks) -> None:
    """Let hooks change how a model's optimizer is saved and loaded."""
    get, compile_from = trainer.get_compile_config, trainer.compile_from_config

    @functools.wraps(get)
    def managed_get(self: Model) -> Any:
        config = get(self)
        if config.get("optimizer"):
            config["optimizer"] = hooks.optimizer_to_save(config["optimizer"])
        return config

    @functools.wraps(compile_from)
    def managed_compile_from(self: Model, config: Any) -> Any:
        if strategy_of(self) is not None and config.get("optimizer"):
            config = {**config, "optimizer": hooks.optimizer_to_load(config["optimizer"])}
        return compile_from(self, config)

    trainer.get_compile_config = managed_get
    trainer.compile_from_config = managed_compile_from


def _outside(method: Any, context: Callable[[Any], Any] = contextlib.nullcontext) -> Any:
    """Wrap a method to leave the strategy's scope and to enter `context(strategy)`."""

    @functools.wraps(method)
    def managed(self: Model, *args: Any, **kwargs: Any) -> Any:
        strategy = strategy_of(self)
        if strategy is None:
            return method(self, *args, **kwargs)
        with runtime.outside_strategy(), coordinator.of(strategy).told_plainly(), context(strategy):
            return method(self, *args, **kwargs)

    return managed


def _install_functions(trainer: Any, hooks: Hooks) -> None:
    _install_function(trainer, "train_function", hooks.train_function, hooks.begin_training)
    _install_function(trainer, "test_function", hooks.test_function)
    build = trainer._maybe_symbolic_build

    @functools.wraps(build)
    def managed_build(self: Model, iterator: Any = None, data_batch: Any = None) -> Any:
        if strategy_of(self) is None or iterator is None:
            return build(self, iterator=iterator, data_batch=data_batch)
        return hooks.build(self, iterator)

    trainer._maybe_symbolic_build = managed_build


def _install_function(
    trainer: Any,
    attribute: str,
    make: Callable[[Model], Any],
    then: Callable[[Model], None] = lambda model: None,
) -> None:
    original = getattr(trainer, f"make_{attribute}")

    @functools.wraps(original)
    def managed(self: Model, force: bool = False) -> Any:
        if strategy_of(self) is None:
            return original(self, force)
        if force or getattr(self, attribute) is None:
            setattr(self, attribute, make(self))
        then(self)
        return getattr(self, attribute)

    setattr(trainer, f"make_{attribute}", managed)
