"""The workers' data: an input pipeline in each worker's own process."""

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
      message: for whom this ends in an error.
      what: "a tf.data.Dataset that ...", for a sentence about it.
    """

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


DatasetFn = Callable[[tf.distribute.InputContext], Any]

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Pipelines:
    """Input pipelines as data: what travels to the workers' processes.

    Attributes:
      graphs: the serialized data set of each worker, or one for all.
      spec: of the tensors of an element: their dtypes' names and shapes.
      shards: of how many parts of the data set each worker reads one; 1: all of it.
      repeat: whether to begin again at the end of the data.
      queue: where workers take the batches, as `BatchQueue.spec` has it; None if they read.
      number: no other pipelines of this process have it.
    """

    graphs: Sequence[bytes]
    spec: Sequence[tuple[str, Sequence[int | None] | None]]
    shards: int
    repeat: bool
    queue: dict[str, Any] | None = None
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))

    def describe(self) -> dict[str, Any]:
        """Returns all but the graphs, as JSON can hold it."""
        return {
            "spec": [list(part) for part in self.spec],
            "shards": self.shards,
            "repeat": self.repeat,
            "queue": self.queue,
            "number": self.number,
        }


def open_pipeline(description: dict[str, Any], graph: bytes, worker: int, skip: int = 0) -> Any:
    """Returns a worker's part of a data set that `Pipelines` describe; its elements are flat.

    Args:
      description: as `Pipelines.describe` has made it.
      graph: of the worker's data set.
      worker: which part to read.
      skip: how many elements of the part to leave out at its beginning.
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

    Given a data set, worker i reads every `workers`-th of its elements (batches), beginning
    with the i-th; a shuffle without a seed draws a new order whenever pipelines are started, the
    same one in all workers, so that no two of them read the same (one inside an `interleave` or
    `flat_map` then has that order in every pass). A data set of known length is repeated
    without end if `repeat`. Given a function, each worker reads the
    data set that the function returns for it, once.

    Args:
      source: a `tf.data.Dataset` of batches, or a function from `tf.distribute.InputContext`
        to one.
      workers: how many pipelines there are to be.
      batches: the length of the data set if it is known and finite; None to ask the data set.
      repeat: whether a data set of known length is to be repeated; False to read it once.

    Raises:
      TypeError: if the function returns no data set.
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
        self._check_caches()
        self._random = np.random.default_rng()
        self._passes = 0  # How often the pipelines have been started.

    def _check_caches(self) -> None:
        """Refuses files that several workers would write."""
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
        """Returns the pipelines, begun anew."""
        graphs, shards = self._graphs, 1
        if not self._own:
            seed = int(self._random.integers(2**40))
            graphs = [datasets.seeded(graphs[0], seed, self._passes)]
            self._passes += 1
            # An empty part cannot be repeated: of fewer batches than workers, everyone reads all.
            if not self.endless or (self.batches or 0) >= self.workers:
                shards = self.workers
        return Pipelines(
            graphs=[graph.numpy() for graph in graphs],
            spec=datasets.flat_spec(self.element_spec),
            shards=shards,
            repeat=self.endless,
        )


def _call(function: DatasetFn, workers: int, worker: int) -> Any:
    """Returns the data set that a user's function returns for one worker."""
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
    """Returns whether elements of one spec can stand where the other is expected."""
    try:
        tf.nest.assert_same_structure(one, other)
    except (ValueError, TypeError):
        return False
    pairs = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    return all(a.is_compatible_with(b) for a, b in pairs)
