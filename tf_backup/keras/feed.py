"""What stands for Keras' epoch iterator when the data are read by workers."""

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
    """Stands for Keras' epoch iterator: the data of one `fit` or `evaluate`.

    An epoch of `fit` has `steps_per_epoch` updates; left out, a data set of known length is
    passed once, in ceil(batches / N) updates, and a function's data sets until fewer than N
    workers have data. What `fit` is given and workers cannot read, this process reads for them.

    Args:
      strategy: whose workers read.
      steps_per_execution: Keras steps per call of the train function.
      steps_per_epoch: updates in fit, batches in evaluate.
      x, y, sample_weight, batch_size, shuffle, class_weight: as `fit` has them. Only fit
        passes `class_weight`, which tells it from the others.

    Raises:
      TypeError: if `steps_per_epoch` is no int.
      ValueError: if it is below 1.
      Immovable: in evaluate, if workers cannot read the data.
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
        self.count = steps_per_execution  # Updates to make in the call at hand.
        self.strategy = strategy
        self.steps = steps_per_epoch
        self.remaining: int | None = None  # Updates left in the epoch, those of the call included.
        self.done = False  # Whether evaluation has read all there is.
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
        """Refuses what Keras would do to the data, and cannot do to a function's."""
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
        """Refuses data that would be read for ever."""
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
        """The workers' pipelines; known once `bind` was called."""
        assert self._data is not None
        return self._data

    @property
    def num_batches(self) -> int | None:
        """Steps of the progress bar; None if that is not known."""
        if not self.training:
            return 1  # All shards at once.
        return self.steps if self.steps is not None else self._source.batches

    def bind(self, workers: int, replicas: int) -> None:
        """Says how many workers read, and how many gradients make an update."""
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
        """Ends what this process does for the data."""
        if isinstance(self._data, PythonData):
            self._data.close()

    def pipelines(self) -> Pipelines:
        """Returns the workers' pipelines for an epoch."""
        if self._pipelines is None:
            self._pipelines = self.data.start()
        return self._pipelines

    def reset(self) -> None:
        """Called by Keras between symbolic build and first epoch."""
        self.done = False

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        begin = 0
        self.done = False
        if self.training and self.steps is None:
            self._pipelines = None  # Each epoch reads the data once, from its beginning.
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
        """Ends an epoch whose data has ended."""
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
    """Returns whether `x` is a function to a data set, and nothing that Keras knows."""
    return callable(x) and not isinstance(x, tf.data.Dataset) and not hasattr(x, "__getitem__")
