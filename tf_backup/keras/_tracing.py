"""Private Keras APIs: changes to Keras while a computation is traced.

TensorFlow traces a function in the thread that calls it, with all its loops and branches. Other
threads may train or call other models meanwhile, and see nothing of these changes.

Variables and metrics of the traced model itself change for all threads, as they do in Keras' own
`fit`: no other thread may use that model. Two threads that trace models with a common layer, metric
or optimizer do so one after the other.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_backup.annotations import Model, Tensor

_one_at_a_time = threading.RLock()  # Held while objects have other attributes.


def _by_thread(owner: Any, name: str) -> ContextVar[Callable[..., Any]]:
    """Let each thread replace a method of a class for itself, and return the thread's method.

    The class keeps a method that calls the thread's. Were it replaced for a while, two threads
    could each restore what the other had put there.
    """
    original: Callable[..., Any] = getattr(owner, name)
    method = ContextVar(name, default=original)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method.get()(self, *args, **kwargs)

    setattr(owner, name, call)
    return method


_embedding_call = _by_thread(keras.layers.Embedding, "call")
_optimizer_apply = _by_thread(keras.optimizers.Optimizer, "apply")


@contextlib.contextmanager
def _in_this_thread(method: ContextVar[Any], replacement: Callable[..., Any]) -> Iterator[None]:
    """Replace a method in this thread."""
    token = method.set(replacement)
    try:
        yield
    finally:
        method.reset(token)


@contextlib.contextmanager
def _attribute(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute; then restore what the object itself had, or delete it."""
    own = name in vars(thing)
    found = vars(thing).get(name)
    object.__setattr__(thing, name, value)  # Keras would track the value.
    try:
        yield
    finally:
        if own:
            object.__setattr__(thing, name, found)
        else:
            object.__delattr__(thing, name)


@contextlib.contextmanager
def looking_up(rows: Callable[[Any, Tensor], Tensor | None]) -> Iterator[None]:
    """Make embedding layers get their rows from a function, in this thread.

    Args:
      rows: function from a layer's variable and ids to rows, or to None if the layer should read
        the variable.
    """
    original = _embedding_call.get()

    def call(self: Any, inputs: Any) -> Any:
        plain = not self.lora_enabled and self.quantization_mode is None
        if plain and isinstance(inputs, tf.Tensor):
            ids = inputs if inputs.dtype in (tf.int32, tf.int64) else tf.cast(inputs, tf.int32)
            found = rows(self._embeddings, ids)
            if found is not None:
                return tf.cast(found, self.compute_dtype)
        return original(self, inputs)

    with _in_this_thread(_embedding_call, call):
        yield


@contextlib.contextmanager
def replaced(variables: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Make Keras variables use other `tf.Variable`s, given as (Keras, TensorFlow) pairs.

    In all threads: a variable does not know who reads it. They are those of the traced model.
    """
    with _one_at_a_time, contextlib.ExitStack() as changes:
        for variable, other in variables:
            changes.enter_context(_attribute(variable, "_value", other))
        yield


@contextlib.contextmanager
def applying(optimizer: Any, apply: Callable[..., None], other: BaseException) -> Iterator[None]:
    """Replace an optimizer's `apply` with a function; other optimizers raise `other`.

    In this thread only: in others, also this optimizer updates.
    """

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise other

    thread = threading.get_ident()
    with _one_at_a_time, _in_this_thread(_optimizer_apply, refuse):
        found = optimizer.apply

        def apply_here(*args: Any, **kwargs: Any) -> None:
            (apply if threading.get_ident() == thread else found)(*args, **kwargs)

        with _attribute(optimizer, "apply", apply_here):
            yield


class Noted(NamedTuple):
    """A result of a metric: a tensor or a dict of them."""

    value: Any  # what `result` returned, or one value of a dict; kept so that its id stays unique
    current: Callable[[], Any]  # computes it from the metric's current state


@contextlib.contextmanager
def results_noted(model: Model) -> Iterator[dict[int, Noted]]:
    """Record the results that a model's metrics return in this thread.

    Yields:
      Dict from the id of each result to the result.
    """
    noted: dict[int, Noted] = {}
    thread: int | None = threading.get_ident()

    def noting(current: Callable[[], Any]) -> Callable[[], Any]:
        def result() -> Any:
            value = current()
            if threading.get_ident() != thread:
                return value
            noted[id(value)] = Noted(value, current)
            if isinstance(value, dict):
                for name, single in value.items():
                    noted[id(single)] = Noted(single, functools.partial(_item, current, name))
            return value

        return result

    inside = [metric for layer in model._flatten_layers() for metric in layer._metrics]
    metrics = list({id(metric): metric for metric in [*model.metrics, *inside]}.values())
    with _one_at_a_time, contextlib.ExitStack() as changes:
        for metric in metrics:
            changes.enter_context(_attribute(metric, "result", noting(metric.result)))
        try:
            yield noted
        finally:
            thread = None  # A `current` of a context within this one may still be called.


def _item(result: Callable[[], Any], name: str) -> Any:
    return result()[name]
