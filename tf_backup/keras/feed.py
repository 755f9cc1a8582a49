"""Replacement for Keras' epoch iterator when workers read the data."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_backup._tf import runtime
from tf_backup.actors.python_data import PythonData, Source
from tf_backup.checks import checked_int
from tf_backup.keras import _adapters
from tf_backup.worker_data import Immovable, Pipelines, WorkerData

_MEANING = " (updates, each of N gradients), or left out for one pass over the data"


class Feed:
    """Replacement for Keras' epoch iterator: the data of one `fit` or `evaluate`.

    An epoch of `fit` has `steps_per_epoch` updates. Without it, an epoch is one pass over a data
    set of known length, in ceil(batches / N) updates; other data are read until fewer than N
    workers have any left. If workers cannot read the data of `fit`, this process reads for them.

    Args:
      strategy: the strategy whose workers read the data.
      steps_per_execution: Keras steps per call of the train function.
      steps_per_epoch: updates in `fit`, batches in `evaluate`.
      x, y, sample_weight, batch_size, shuffle, class_weight: as for `fit`. Only `fit` passes
        `class_weight`, which distinguishes it from the others.

    Raises:
      TypeError: if `steps_per_epoch` is not an int.
      ValueError: if `steps_per_epoch` is below 1.
      Immovable: in `evaluate`, if workers cannot read the data.
    """

    def __init__(
        self,
        strategy: Any,
        *,
        steps_per_execution: int = 1,
        steps_per_epoch: int | None = None,
        **data: Any,
    ) -> None:
        self.training = "class_weight" in data
        if steps_per_epoch is not None:
            name, meaning = "steps (or validation_steps)", ""
            if self.training:
                name, meaning = "steps_per_epoch", _MEANING
            steps_per_epoch = checked_int(name, steps_per_epoch, meaning=meaning)
        steps_per_epoch = _adapters.capped(steps_per_epoch)
        self.count = steps_per_execution  # Updates to make in the current call.
        self.strategy = strategy
        self.steps = steps_per_epoch
        self.remaining: int | None = None  # Updates left in the epoch, including this call.
        self.done = False  # Whether evaluation has read all data.
        self._per_call = steps_per_execution
        self._data: WorkerData | PythonData | None = None
        self._pipelines: Pipelines | None = None
        if _is_dataset_fn(data.get("x")):
            self._source = Source(data["x"], None)
            self._check_function(data)
        else:
            self._source = _adapters.source(steps_per_epoch=steps_per_epoch, **data)
        if not self.training:
            self._bind_evaluation(runtime.worker_count(strategy))

    def _check_function(self, data: dict[str, Any]) -> None:
        """Raise ValueError for arguments that Keras cannot apply to a function's data sets."""
        for name in ("y", "sample_weight", "batch_size", "class_weight"):
            if data.get(name) is not None:
                raise ValueError(
                    f"{name} cannot be given with a function: let its data sets yield batches "
                    "of (x, y) or (x, y, sample_weight)."
                )
        if not self.training and self.steps is not None:
            raise ValueError(
                "steps (also those of keras.config.set_max_steps_per_epoch) cannot be given with a "
                "function: let its data sets .take()."
            )

    def _check_finite(self) -> None:
        """Raise ValueError if the data would be read forever."""
        dataset = self._source.dataset
        infinite = self._source.infinite or (
            isinstance(dataset, tf.data.Dataset)
            and int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
        )
        if infinite and self.steps is None:
            name = "steps_per_epoch" if self.training else "steps (or validation_steps)"
            raise ValueError(f"the data set repeats for ever; say how long to read with {name}.")

    @property
    def data(self) -> WorkerData | PythonData:
        """The workers' data; available once `bind` has been called."""
        assert self._data is not None
        return self._data

    @property
    def num_batches(self) -> int | None:
        """Number of steps of the progress bar; None if it is unknown."""
        if not self.training:
            return 1  # One step evaluates all shards.
        return self.steps if self.steps is not None else self._source.batches

    def bind(self, workers: int, replicas: int) -> None:
        """Set the number of workers that read, and of gradients that make an update."""
        if self._data is not None:
            return
        self._check_finite()
        self._data = self._training_data(workers)
        if self.steps is None and self._data.endless:
            self.steps = -(-(self._data.batches or 1) // replicas)

    def _training_data(self, workers: int) -> WorkerData | PythonData:
        source = self._source
        if source.here is None:
            try:
                return WorkerData(source.dataset, workers, source.batches)
            except Immovable as error:
                if not isinstance(source.dataset, tf.data.Dataset):
                    raise
                source = source._replace(here=error.what)
        return PythonData(self.strategy, source, capacity=workers)

    def _bind_evaluation(self, workers: int) -> None:
        self._check_finite()
        dataset = self._source.dataset
        if self.steps is not None and isinstance(dataset, tf.data.Dataset):
            dataset = dataset.take(self.steps)
        self._data = WorkerData(dataset, workers, None, repeat=False)

    def close(self) -> None:
        """Stop making batches in this process."""
        if isinstance(self._data, PythonData):
            self._data.close()

    def pipelines(self) -> Pipelines:
        """Return the workers' pipelines for an epoch."""
        if self._pipelines is None:
            self._pipelines = self.data.start()
        return self._pipelines

    def reset(self) -> None:
        """Reset the iterator; Keras calls this between the symbolic build and the first epoch."""
        self.done = False

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        begin = 0
        self.done = False
        if self.training and self.steps is None:
            self._pipelines = None  # Each epoch reads the data once, from the start.
        limit = self.steps if self.training else None
        while not self.done and (limit is None or begin < limit):
            end = begin + self._per_call
            self.remaining = None
            if self.training and self.steps is not None:
                end = min(end, self.steps)
                self.remaining = self.steps - begin
            self.count = end - begin
            yield begin, end - 1, self
            begin = end

    @contextlib.contextmanager
    def catch_stop_iteration(self) -> Iterator[None]:
        """End an epoch when its data ends."""
        try:
            yield
        except StopIteration:
            self._pipelines = None
            if isinstance(self._data, PythonData) and self._data.error is not None:
                raise self._data.error from None
            if self.training and self.steps is not None:
                warnings.warn(
                    "Your input ran out of data before steps_per_epoch updates; interrupting the "
                    "epoch. Let the data set (or those of your function) .repeat(), or leave "
                    "steps_per_epoch out.",
                    stacklevel=2,
                )


def _is_dataset_fn(x: Any) -> bool:
    """Return whether `x` is a function that returns a data set, and not input for Keras."""
    return callable(x) and not isinstance(x, tf.data.Dataset) and not hasattr(x, "__getitem__")
