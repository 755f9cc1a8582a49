"""The only door to Keras' internals: what `fit` and `evaluate` are made of.

`install` puts four seams into Keras' TensorFlow trainer. They do nothing for a model that was
not created under a parameter-server strategy, which Keras 3 cannot train by itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend, tree
from keras.src.backend.tensorflow import trainer as keras_trainer
from keras.src.random import seed_generator
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import data_adapter_utils

from tf_backup import _tf
from tf_backup.failures import told_plainly

Tensor = Any
Model = Any  # a keras.Model

_SEAMS = ("fit", "evaluate", "predict", "make_train_function", "make_test_function")
_LARGEST_ARRAYS = 2**31 - 2**24  # Bytes; a serialized graph has less than 2 GiB.
_SAVING = ("get_compile_config", "compile_from_config")
_PRIVATE = ("_maybe_symbolic_build", "_symbolic_build", "_compute_loss", "compute_metrics")


class Hooks(Protocol):
    """What the seams call for models under a parameter-server strategy."""

    def check_fit(self, model: Model) -> None:
        """Called first in fit; may refuse."""

    def end_fit(self, model: Model, failed: bool) -> None:
        """Called last in fit, however it ends."""

    def feed(self, strategy: Any, **data: Any) -> Any:
        """Returns what stands for Keras' epoch iterator."""

    def build(self, model: Model, feed: Any) -> None:
        """Called with the feed before the first step; makes all variables."""

    def train_function(self, model: Model) -> Any:
        """Returns what is called with the feed for each step of fit."""

    def test_function(self, model: Model) -> Any:
        """Returns what is called with the feed for each step of evaluate."""

    def optimizer_to_save(self, serialized: Any) -> Any:
        """Returns how a model's optimizer is written, given how Keras would write it."""

    def optimizer_to_load(self, serialized: Any) -> Any:
        """Returns how to read an optimizer for a model under a parameter-server strategy."""


def strategy_of(model: Model) -> Any:
    """Returns the parameter-server strategy that a model was created under, or None."""
    strategy = getattr(model, "_distribute_strategy", None)
    return strategy if _tf.is_parameter_server_strategy(strategy) else None


def strategy_of_optimizer(optimizer: Any) -> Any:
    """Returns the strategy that a Keras optimizer was created under."""
    return optimizer._distribution_strategy


_installed = False


def install(hooks: Hooks) -> None:
    """Puts the seams into Keras, once.

    Raises:
      ImportError: if this Keras has moved what the seams rely on.
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
        if not _tf.is_parameter_server_strategy(distribute_strategy):
            return original(distribute_strategy, *args, **data)
        return hooks.feed(distribute_strategy, **data)

    keras_trainer.TFEpochIterator = epoch_iterator


def _install_fit(trainer: Any, hooks: Hooks) -> None:
    fit = trainer.fit

    @functools.wraps(fit)
    def managed_fit(self: Model, *args: Any, **kwargs: Any) -> Any:
        hooks.check_fit(self)
        if strategy_of(self) is None:
            return fit(self, *args, **kwargs)
        failed = True
        with _tf.outside_strategy(), told_plainly(strategy_of(self)):
            try:
                history = fit(self, *args, **kwargs)
                failed = False
            finally:
                hooks.end_fit(self, failed)
        return history

    trainer.fit = managed_fit
    for name in ("evaluate", "predict"):
        setattr(trainer, name, _outside(getattr(trainer, name)))


def _install_slots() -> None:
    """Lets what an optimizer keeps for a variable (momentum, say) lie beside that variable.

    An update would send it from one parameter server to another otherwise.
    """
    optimizer = keras.optimizers.Optimizer
    add = optimizer.add_variable_from_reference

    @functools.wraps(add)
    def managed(self: Any, reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        variable = getattr(reference_variable, "_value", None)
        if not _tf.is_parameter_server_strategy(tf.distribute.get_strategy()) or variable is None:
            return add(self, reference_variable, *args, **kwargs)
        with _tf.beside(variable):
            return add(self, reference_variable, *args, **kwargs)

    optimizer.add_variable_from_reference = managed


def _install_saving(trainer: Any, hooks: Hooks) -> None:
    """Lets hooks change how a model's optimizer is written to files, and read from them."""
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


def _outside(method: Any) -> Any:
    """Wraps a method to leave the strategy's scope in which it may be called."""

    @functools.wraps(method)
    def managed(self: Model, *args: Any, **kwargs: Any) -> Any:
        if strategy_of(self) is None:
            return method(self, *args, **kwargs)
        with _tf.outside_strategy(), told_plainly(strategy_of(self)):
            return method(self, *args, **kwargs)

    return managed


def _install_functions(trainer: Any, hooks: Hooks) -> None:
    for attribute, make in (
        ("train_function", hooks.train_function),
        ("test_function", hooks.test_function),
    ):
        _install_function(trainer, attribute, make)
    build = trainer._maybe_symbolic_build

    @functools.wraps(build)
    def managed_build(self: Model, iterator: Any = None, data_batch: Any = None) -> Any:
        if strategy_of(self) is None or iterator is None:
            return build(self, iterator=iterator, data_batch=data_batch)
        return hooks.build(self, iterator)

    trainer._maybe_symbolic_build = managed_build


def _install_function(trainer: Any, attribute: str, make: Callable[[Model], Any]) -> None:
    original = getattr(trainer, f"make_{attribute}")

    @functools.wraps(original)
    def managed(self: Model, force: bool = False) -> Any:
        if strategy_of(self) is None:
            return original(self, force)
        if force or getattr(self, attribute) is None:
            setattr(self, attribute, make(self))
        return getattr(self, attribute)

    setattr(trainer, f"make_{attribute}", managed)


# ---- Data -------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A data set of batches, and how many there are (None if that is not known)."""

    dataset: Any
    batches: int | None


def source(**data: Any) -> Source:
    """Returns what `fit` or `evaluate` was given, as a data set.

    Raises:
      TypeError: if it lives in this process alone, as a generator does.
    """
    # Keras shuffles arrays only, and warns at length that it does not shuffle what is none.
    adapter = data_adapters.get_data_adapter(**{**data, "shuffle": False})
    if isinstance(adapter, data_adapters.ArrayDataAdapter):
        adapter = data_adapters.get_data_adapter(**data)
    movable = (data_adapters.ArrayDataAdapter, data_adapters.TFDatasetAdapter)
    if not isinstance(adapter, movable):
        raise TypeError(
            f"x is {type(data.get('x')).__name__}, which runs in this process and cannot be sent "
            "to the workers. Give arrays, a tf.data.Dataset, or a function from "
            "tf.distribute.InputContext to a tf.data.Dataset."
        )
    if isinstance(adapter, data_adapters.ArrayDataAdapter):
        _check_size(adapter._inputs)
        if adapter._shuffle:
            return Source(_shuffled(adapter), adapter.num_batches)
    return Source(adapter.get_tf_dataset(), adapter.num_batches)


def _check_size(arrays: Any) -> None:
    """Refuses arrays that no message can hold."""
    size = sum(getattr(array, "nbytes", 0) for array in tree.flatten(arrays))
    if size > _LARGEST_ARRAYS:
        raise ValueError(
            f"the arrays have {size / 2**30:.1f} GiB, but no more than "
            f"{_LARGEST_ARRAYS / 2**30:.1f} GiB can be sent to the workers. Let the workers read "
            "files: give a tf.data.Dataset of files, or a function from "
            "tf.distribute.InputContext to one."
        )


def _shuffled(adapter: Any) -> Any:
    """Returns batches of an array adapter's samples, in a new order in every pass.

    Keras' own data set shuffles in a `map`, where every worker would draw another order.
    """
    arrays = tree.lists_to_tuples(adapter._inputs)
    if not all(isinstance(array, np.ndarray | tf.Tensor) for array in tree.flatten(arrays)):
        return adapter.get_tf_dataset()  # Sparse, say.
    samples, size = adapter._num_samples, adapter._batch_size
    indices = tf.data.Dataset.range(samples)
    if adapter._shuffle == "batch":
        indices = indices.batch(size).shuffle(-(-samples // size))
    else:
        indices = indices.shuffle(samples).batch(size)

    def take(index: Tensor, whole: Any) -> Any:
        return tree.map_structure(lambda array: tf.gather(array, index), whole)

    everything = tf.data.Dataset.from_tensors(arrays).repeat()
    return tf.data.Dataset.zip((indices, everything)).map(take, num_parallel_calls=1)


# ---- Models -----------------------------------------------------------------------------------


def has_own_step(model: Model, name: str) -> bool:
    """Returns whether the model overrides `train_step` or `test_step`."""
    return getattr(type(model), name) is not getattr(keras_trainer.TensorFlowTrainer, name)


def build(model: Model, element_spec: Any) -> None:
    """Creates the variables of model, metrics and optimizer, from the spec of a batch."""
    with strategy_of(model).scope():
        try:
            model._symbolic_build(data_batch=element_spec)
        except RuntimeError:
            # Keras calls the model, but a train_step of its own may never do that.
            parts = model._flatten_layers(include_self=False)
            own = has_own_step(model, "train_step") and model.trainable_variables
            if not own or not all(part.built for part in parts):
                raise
            model.built = True
            if model.optimizer is not None and not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)


def seed_states(model: Model) -> list[Any]:
    """Returns the state variables of all seed generators in a model (of dropout, say).

    Keras' global generator is among them: a layer may draw from it without having one.
    """
    layers = model._flatten_layers()
    states = [seed.state for layer in layers for seed in layer._seed_generators]
    states.append(seed_generator.global_seed_generator().state)
    return list({id(state): state for state in states}.values())


class ValuesScope(backend.StatelessScope):  # type: ignore[misc]
    """A scope in which Keras variables have other values, and keep what is assigned.

    Args:
      mapping: variables and their values.
      tables: variables that should not be read whole; `whole` collects those that are.
    """

    def __init__(self, mapping: Sequence[tuple[Any, Tensor]], tables: Sequence[Any] = ()) -> None:
        super().__init__(state_mapping=mapping, collect_losses=True)
        self.whole: list[Any] = []
        self._tables = {id(table) for table in tables}

    def get_current_value(self, variable: Any) -> Tensor | None:
        if id(variable) in self._tables:
            self.whole.append(variable)
            return tf.zeros(variable.shape, variable.dtype)  # The computation is traced anew.
        return super().get_current_value(variable)


def embedding_tables(layer: Any) -> list[Any]:
    """Returns the variables of all embedding layers in a model or layer."""
    layers = [each for each in layer._flatten_layers() if isinstance(each, keras.layers.Embedding)]
    tables = [each._embeddings for each in layers if hasattr(each, "_embeddings")]
    return list({id(table): table for table in tables}.values())


@contextlib.contextmanager
def looking_up(rows: Callable[[Any, Tensor], Tensor | None]) -> Iterator[None]:
    """Lets embedding layers get their rows from elsewhere.

    Args:
      rows: from a layer's variable and ids to rows; None if the layer is to read the variable.
    """
    original = keras.layers.Embedding.call

    def call(self: Any, inputs: Any) -> Any:
        plain = not self.lora_enabled and self.quantization_mode is None
        if plain and isinstance(inputs, tf.Tensor):
            ids = inputs if inputs.dtype in (tf.int32, tf.int64) else tf.cast(inputs, tf.int32)
            found = rows(self._embeddings, ids)
            if found is not None:
                return tf.cast(found, self.compute_dtype)
        return original(self, inputs)

    keras.layers.Embedding.call = call
    try:
        yield
    finally:
        keras.layers.Embedding.call = original


def metric_variables(model: Any) -> list[Any]:
    """Returns the variables of all metrics that a step of the model may update.

    A model that lists its `metrics` itself seldom lists the tracker of Keras' own loss.
    """
    metrics = [getattr(model, "_loss_tracker", None), getattr(model, "_compile_metrics", None)]
    metrics += getattr(getattr(model, "_compile_loss", None), "metrics", [])
    known = [*model.metrics_variables]
    known += [variable for metric in metrics if metric is not None for variable in metric.variables]
    return list({id(variable): variable for variable in known}.values())


def settings(optimizer: Any) -> list[Any]:
    """Returns the variables of an optimizer that a training step may look at."""
    if optimizer is None:
        return []
    while "inner_optimizer" in vars(optimizer):
        optimizer = optimizer.inner_optimizer
    found = [optimizer.iterations, getattr(optimizer, "_learning_rate", None)]
    return [each for each in found if isinstance(each, backend.Variable)]


@contextlib.contextmanager
def replaced(variables: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Lets Keras variables be other `tf.Variable`s: (Keras variable, `tf.Variable`) pairs."""
    originals = [(variable, variable._value) for variable, _ in variables]
    try:
        for variable, other in variables:
            variable._value = other
        yield
    finally:
        for variable, original in originals:
            variable._value = original


@contextlib.contextmanager
def applying(optimizer: Any, apply: Callable[..., None], other: BaseException) -> Iterator[None]:
    """Lets a function stand for an optimizer's `apply`, and other optimizers raise `other`."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise other

    object.__setattr__(optimizer, "apply", apply)
    keras.optimizers.Optimizer.apply = refuse
    try:
        yield
    finally:
        object.__delattr__(optimizer, "apply")
        del keras.optimizers.Optimizer.apply


@contextlib.contextmanager
def results_noted(model: Model) -> Iterator[dict[int, Callable[[], Any]]]:
    """Notes what the results of a model's metrics are.

    Yields:
      By the id of a tensor or dict that a metric's `result` returned, a function that returns it
      as it is at another time.
    """
    noted: dict[int, Callable[[], Any]] = {}
    kept: list[Any] = []  # An id is one thing's only as long as the thing lives.

    def noting(metric: Any) -> Callable[[], Any]:
        def current() -> Any:
            return type(metric).result(metric)

        def result() -> Any:
            value = current()
            kept.append(value)
            noted[id(value)] = current
            if isinstance(value, dict):
                for name, single in value.items():
                    noted[id(single)] = functools.partial(_item, current, name)
            return value

        return result

    metrics = list({id(metric): metric for metric in model.metrics}.values())
    for metric in metrics:
        object.__setattr__(metric, "result", noting(metric))
    try:
        yield noted
    finally:
        for metric in metrics:
            object.__delattr__(metric, "result")


def tensors_of(variable: Any) -> Any:
    """Returns the `tf.Variable` of a Keras variable, also in a scope of other values."""
    return variable._value


class Pass(NamedTuple):
    """A forward pass; the arguments of `Model.compute_metrics` and the loss."""

    x: Any
    y: Any
    y_pred: Any
    sample_weight: Any
    loss: Tensor


def forward(model: Model, batch: Any, training: bool) -> Pass:
    """Computes a model's loss on a batch as its `train_step` or `test_step` does."""
    x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=training) if model._call_has_training_arg else model(x)
    loss = model._compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )
    samples = tf.shape(next(part for part in tree.flatten(x) if part is not None))[0]
    model._loss_tracker.update_state(loss, sample_weight=samples)
    return Pass(x, y, y_pred, sample_weight, loss)


def metrics(model: Model, done: Pass) -> None:
    """Updates a model's metrics as its `train_step` or `test_step` does."""
    model.compute_metrics(done.x, done.y, done.y_pred, sample_weight=done.sample_weight)


def _item(result: Callable[[], Any], name: str) -> Any:
    return result()[name]
