"""Input pipelines that run in the workers' own processes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup._tf import datasets


class Immovable(ValueError):
    """A data set that cannot be sent to another process.

    Args:
      message: error message, for callers that let this error propagate.
      what: noun phrase for the data set, such as "this tf.data.Dataset", for log messages.
    """

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


DatasetFn = Callable[[tf.distribute.InputContext], Any]

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Pipelines:
    """Serialized input pipelines, as they are sent to worker processes.

    Attributes:
      graphs: the serialized data set of each worker, or a single one for all.
      spec: dtype names and shapes of the tensors of an element.
      shards: number of shards of the data set, of which each worker reads one; 1 for all of it.
      repeat: whether to start again at the end of the data.
      queue: the `BatchQueue.spec` of the queue that workers take batches from; None if they read
        the data themselves.
      number: unique number of these pipelines in this process.
    """

    graphs: Sequence[bytes]
    spec: Sequence[tuple[str, Sequence[int | None] | None]]
    shards: int
    repeat: bool
    queue: dict[str, Any] | None = None
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))

    def describe(self) -> dict[str, Any]:
        """Return everything but the graphs, as a JSON-serializable dict."""
        return {
            "spec": [list(part) for part in self.spec],
            "shards": self.shards,
            "repeat": self.repeat,
            "queue": self.queue,
            "number": self.number,
        }


def open_pipeline(description: dict[str, Any], graph: bytes, worker: int, skip: int = 0) -> Any:
    """Return a worker's part of the data set described by `Pipelines`, with flat elements.

    Args:
      description: result of `Pipelines.describe`.
      graph: serialized data set of the worker.
      worker: index of the part to read.
      skip: number of elements to skip at the beginning of the part.
    """
    specs = [tf.TensorSpec(shape, tf.as_dtype(dtype)) for dtype, shape in description["spec"]]
    dataset = datasets.dataset_from_graph(tf.constant(graph), tuple(specs))
    if description["shards"] > 1:
        dataset = dataset.shard(description["shards"], worker)
    if description["repeat"]:
        dataset = dataset.repeat()
    if skip:
        dataset = dataset.skip(skip)
    return dataset.prefetch(2)


class WorkerData:
    """Input pipelines for `workers` workers.

    Given a data set, worker i reads every `workers`-th of its elements (batches), starting with
    element i. If `repeat` is true, a data set of known length is repeated without end. A shuffle
    without a seed draws a new order whenever pipelines are started. The order is the same in all
    workers, so that no two of them read the same element. (A shuffle inside an `interleave` or
    `flat_map` then has the same order in every pass.) Given a function, each worker reads the
    data set that the function returns for it, once.

    Elements are read in order even if the data set allows another one (`deterministic=False`):
    every worker skips the elements of the others, and in an evaluation (`repeat=False`) a worker
    goes on where another one has stopped. Training reads a function's data sets as they are, and
    evaluation in one order, however often they are opened.

    Args:
      source: a `tf.data.Dataset` of batches, or a function from `tf.distribute.InputContext`
        to one.
      workers: number of pipelines.
      batches: length of the data set if it is known and finite; None to ask the data set.
      repeat: whether to repeat a data set of known length; False to read it once.
      seed: seed of the orders that shuffles without a seed draw; None for a random one.

    Raises:
      TypeError: if the function does not return a data set.
      ValueError: if the function raises, if the data set cannot be sent to another process, or
        if the workers' elements differ in structure.
    """

    def __init__(
        self,
        source: Any,
        workers: int,
        batches: int | None = None,
        *,
        repeat: bool = True,
        seed: int | None = None,
    ) -> None:
        self.workers = workers
        self._repeat = repeat
        self.batches: int | None = batches
        self._own = not isinstance(source, tf.data.Dataset)  # One data set per worker.
        if not self._own:
            if batches is None:
                known = int(source.cardinality())
                self.batches = known if known >= 0 else None
            sources = [source]
        elif callable(source):
            sources = [_call(source, workers, worker) for worker in range(workers)]
        else:
            raise TypeError(
                f"data is {source!r}; it must be a tf.data.Dataset or a function from "
                "tf.distribute.InputContext to one."
            )
        self.element_spec = sources[0].element_spec
        for worker, dataset in enumerate(sources):
            if not _compatible(dataset.element_spec, self.element_spec):
                raise ValueError(
                    f"dataset_fn returns elements of {dataset.element_spec} for worker {worker}, "
                    f"but of {self.element_spec} for worker 0; they must be the same."
                )
        self._graphs = [_serialized(dataset) for dataset in sources]
        self._same_order = not self._own or not repeat  # Whenever the pipelines are opened.
        if self._same_order:
            self._graphs = [datasets.in_order(graph) for graph in self._graphs]
        self._check_caches()
        self._random = np.random.default_rng(seed)
        self._passes = 0  # Number of times that the pipelines have been started.

    def _check_caches(self) -> None:
        """Check that no two workers write the same cache file."""
        readers = 1 if self._own else self.workers
        known: set[str] = set()
        for name in [name for graph in self._graphs for name in datasets.cache_files(graph)]:
            if name in known or readers > 1:
                raise ValueError(
                    f"the data set has cache({name!r}), a file that all {self.workers} workers "
                    "would write. Leave the name out, and each worker caches in its memory; or "
                    "give a function from tf.distribute.InputContext to a data set, which names a "
                    "file for each context.input_pipeline_id."
                )
            known.add(name)

    @property
    def endless(self) -> bool:
        """Whether the pipelines repeat without end."""
        return self._repeat and not self._own and self.batches is not None

    def start(self) -> Pipelines:
        """Return the pipelines, started from the beginning."""
        graphs, shards = self._graphs, 1
        if self._same_order:
            seed = int(self._random.integers(2**40))
            graphs = [datasets.seeded(graph, seed, self._passes) for graph in graphs]
            self._passes += 1
        # Empty shards cannot repeat, so all workers read all of a data set that is too short.
        if not self._own and (not self.endless or (self.batches or 0) >= self.workers):
            shards = self.workers
        return Pipelines(
            graphs=[graph.numpy() for graph in graphs],
            spec=datasets.flat_spec(self.element_spec),
            shards=shards,
            repeat=self.endless,
        )


def _call(function: DatasetFn, workers: int, worker: int) -> Any:
    """Return the data set that the user's function returns for one worker."""
    context = tf.distribute.InputContext(
        num_input_pipelines=workers, input_pipeline_id=worker, num_replicas_in_sync=1
    )
    try:
        dataset = function(context)
    except Exception as error:
        raise ValueError(
            f"dataset_fn raised {type(error).__name__} for worker {worker} of {workers}: {error}"
        ) from error
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            f"dataset_fn returned {type(dataset).__name__} for worker {worker}; it must return "
            "a tf.data.Dataset of batches."
        )
    return dataset


def _serialized(dataset: Any) -> Any:
    try:
        graph = datasets.dataset_to_graph(dataset)
    except tf.errors.OpError as error:
        raise Immovable(
            "The data set cannot be sent to the workers' processes. TensorFlow says: "
            f"{error.message}",
            "this tf.data.Dataset",
        ) from None
    if datasets.calls_python(graph):
        raise Immovable(
            "The data set calls Python (from_generator, py_function or numpy_function), which "
            "the workers' processes cannot. Give arrays, or a data set made of TensorFlow's own "
            "operations.",
            "a tf.data.Dataset that calls Python",
        )
    return graph


def _compatible(one: Any, other: Any) -> bool:
    """Return whether elements of spec `one` are valid where `other` is expected."""
    try:
        tf.nest.assert_same_structure(one, other)
    except (ValueError, TypeError):
        return False
    pairs = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    return all(a.is_compatible_with(b) for a, b in pairs)
