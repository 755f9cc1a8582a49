"""Private Keras APIs: models, layers, metrics and optimizers.

Only modules whose names begin with an underscore use private Keras APIs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.annotations import Model, Tensor
from tf_backup.keras._private_keras import (
    backend,
    data_adapter_utils,
    seed_generator,
    trainer,
    tree,
    utils,
)


def strategy_of(model: Model) -> Any:
    """Return the parameter-server strategy that a model was created under, or None."""
    strategy = getattr(model, "_distribute_strategy", None)
    return strategy if runtime.is_parameter_server_strategy(strategy) else None


def strategy_of_optimizer(optimizer: Any) -> Any:
    """Return the strategy that a Keras optimizer was created under."""
    return optimizer._distribution_strategy


def has_own(model: Model, name: str) -> bool:
    """Return whether the model, or its class, overrides a method of Keras, such as `train_step`."""
    method = getattr(model, name)
    return getattr(method, "__func__", method) is not getattr(trainer.TensorFlowTrainer, name)


def only_look(callbacks: Any) -> bool:
    """Return whether all callbacks only observe their arguments during training.

    Such callbacks change nothing between two updates, and read nothing but their arguments: those
    without batch hooks, some of Keras' own, and those that set `async_safe` (Keras' attribute) or
    `runs_behind` (tf_backup's, for callbacks that call the optimizer's `settle` before they read
    more). Relies on the mark of default hooks, which Keras uses to decide what may run async.

    Args:
      callbacks: as for `fit`: None, one callback or a list; or a CallbackList.
    """
    found = getattr(callbacks, "callbacks", None) or tree.flatten(callbacks or [])
    return all(_only_looks(callback) for callback in found)


def _only_looks(callback: Any) -> bool:
    kind = type(callback)
    says_so = getattr(callback, "async_safe", False) or getattr(callback, "runs_behind", False)
    if says_so or kind in _LOOKERS:
        return True
    if kind in _SAVERS and callback.save_freq == "epoch":
        return True
    hooks = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    return all(utils.is_default(getattr(callback, hook)) for hook in hooks)


_LOOKERS = {
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TensorBoard,
}
_SAVERS = {keras.callbacks.BackupAndRestore, keras.callbacks.ModelCheckpoint}


def build(model: Model, element_spec: Any) -> None:
    """Create the variables of model, metrics and optimizer from the spec of a batch."""
    strategy = strategy_of(model)
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        try:
            model._symbolic_build(data_batch=element_spec)
        except (RuntimeError, ValueError):  # Since Keras 3.14, a ValueError is not converted.
            # Keras calls the model, which a custom train_step may never do.
            parts = model._flatten_layers(include_self=False)
            own = has_own(model, "train_step") and model.trainable_variables
            if not own or not all(part.built for part in parts):
                raise
            model.built = True
            if model.optimizer is not None and not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)


def step_function(model: Model, name: str) -> Any:
    """Return the function that Keras calls with an iterator to run the step `name` on a batch."""
    return model._make_function(getattr(model, name))


def seed_states(model: Model) -> list[Any]:
    """Return the state variables of all seed generators in a model (for dropout, for example).

    Keras' global generator is included: a layer without its own generator may draw from it.
    """
    layers = model._flatten_layers()
    states = [seed.state for layer in layers for seed in layer._seed_generators]
    states.append(seed_generator.global_seed_generator().state)
    return list({id(state): state for state in states}.values())


class ValuesScope(backend.StatelessScope):
    """A scope that gives Keras variables other values, and records assignments to them.

    As with a `tf.Variable`, no gradient flows through an assignment: a later read counts as a read
    of the variable.

    Args:
      mapping: pairs of a variable and its value.
      tables: variables that should not be read whole; `whole` collects those that are.

    Attributes:
      assigned: values assigned to each variable, in order, by the variable's id.
      tape: tape that watches assigned values while it records; None for no tape.
    """

    def __init__(self, mapping: Sequence[tuple[Any, Tensor]], tables: Sequence[Any] = ()) -> None:
        super().__init__(state_mapping=mapping, collect_losses=True)
        self.whole: list[Any] = []
        self.assigned: dict[int, list[Tensor]] = {}
        self._known = {id(variable) for variable, _ in mapping}
        self._tables = {id(table) for table in tables}
        self.tape: tf.GradientTape | None = None

    def get_current_value(self, variable: Any) -> Tensor | None:
        if id(variable) in self._tables:
            self.whole.append(variable)
            return tf.zeros(variable.shape, variable.dtype)  # The computation will be traced again.
        return super().get_current_value(variable)

    def add_update(self, update: tuple[Any, Tensor]) -> None:
        """Record a value that is assigned to a variable.

        Raises:
          ValueError: if the variable is not part of this scope: the assignment would be lost.
        """
        variable, value = update
        if id(variable) in self._tables:
            self.whole.append(variable)
        elif id(variable) not in self._known:
            raise ValueError(
                f"the computation assigns to the variable {variable.path!r}, which is no part of "
                "the model: the value would stay on a worker. Make it with add_weight in a layer "
                "of the model, or assign to it in a callback."
            )
        value = tf.stop_gradient(value)
        if self.tape is not None and value.dtype.is_floating:  # TensorFlow warns about others.
            self.tape.watch(value)
        self.assigned.setdefault(id(variable), []).append(value)
        super().add_update((variable, value))


def embedding_tables(layer: Any) -> list[Any]:
    """Return the variables of all embedding layers in a model or layer."""
    layers = [each for each in layer._flatten_layers() if isinstance(each, keras.layers.Embedding)]
    tables = [each._embeddings for each in layers if hasattr(each, "_embeddings")]
    return list({id(table): table for table in tables}.values())


def metric_variables(model: Any) -> list[Any]:
    """Return the variables of all metrics that a step of the model may update.

    A model that overrides `metrics` often omits the tracker of Keras' own loss.
    """
    metrics = [getattr(model, "_loss_tracker", None), getattr(model, "_compile_metrics", None)]
    metrics += getattr(getattr(model, "_compile_loss", None), "metrics", [])
    # Keras does not list the metrics of nested models.
    metrics += [metric for layer in model._flatten_layers() for metric in layer._metrics]
    known = [*model.metrics_variables]
    known += [variable for metric in metrics if metric is not None for variable in metric.variables]
    return list({id(variable): variable for variable in known}.values())


def settings(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer that a training step may read."""
    if optimizer is None:
        return []
    while "inner_optimizer" in vars(optimizer):
        optimizer = optimizer.inner_optimizer
    found = [optimizer.iterations, getattr(optimizer, "_learning_rate", None)]
    return [each for each in found if isinstance(each, backend.Variable)]


def tf_variable(variable: Any) -> Any:
    """Return the `tf.Variable` of a Keras variable, even inside a `ValuesScope`."""
    return variable._value


class Pass(NamedTuple):
    """A forward pass: the arguments of `Model.compute_metrics`, and the loss."""

    x: Any
    y: Any
    y_pred: Any
    sample_weight: Any
    loss: Tensor


def forward(model: Model, batch: Any, training: bool) -> Pass:
    """Compute a model's loss on a batch as Keras' `train_step` or `test_step` does."""
    x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=training) if model._call_has_training_arg else model(x)
    loss = model._compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )
    samples = tf.shape(next(part for part in tree.flatten(x) if part is not None))[0]
    model._loss_tracker.update_state(loss, sample_weight=samples)
    return Pass(x, y, y_pred, sample_weight, loss)


def metrics(model: Model, done: Pass) -> Any:
    """Update a model's metrics as Keras' `train_step` or `test_step` does; return its logs."""
    return model.compute_metrics(done.x, done.y, done.y_pred, sample_weight=done.sample_weight)
