"""Data that only the chief's process can read: Python generators, `PyDataset`, `py_function`."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tf_backup._tf import datasets
from tf_backup._tf.named import Name
from tf_backup.actors import coordinator
from tf_backup.servers.batch_queue import BatchQueue
from tf_backup.worker_data import Pipelines

log = logging.getLogger(__name__)

_END_TIMEOUT_S = 1.0  # How long the end of training waits for user code to return a batch.
_POLL_S = 0.02


def _nothing() -> None:
    pass


class Source(NamedTuple):
    """A data set of batches.

    Attributes:
      dataset: a `tf.data.Dataset`, or a function from `tf.distribute.InputContext` to one.
      batches: number of batches; None if unknown.
      infinite: whether the data set is known to be infinite.
      here: noun phrase such as "a generator" if only this process can read the data, else None.
      begin, end: functions called in this process before and after each pass.
      errors: exceptions raised by user code, if only this process can read the data.
    """

    dataset: Any
    batches: int | None
    infinite: bool = False
    here: str | None = None
    begin: Callable[[], None] = _nothing
    end: Callable[[], None] = _nothing
    errors: Sequence[BaseException] = ()


class PythonData:
    """Batches that a thread of this process makes; each goes to the next worker that asks.

    It has the methods and properties of `WorkerData` that `Feed` uses. A source of known length
    is repeated without end. Any other source is read once per `start`.

    Args:
      strategy: the strategy whose workers take the batches.
      source: the source of the batches.
      capacity: number of batches that may wait on the first parameter server.
    """

    def __init__(self, strategy: Any, source: Source, capacity: int) -> None:
        self._coordinator = coordinator.of(strategy)
        self._source = source
        self._capacity = capacity
        self.element_spec = source.dataset.element_spec
        self.batches = source.batches
        self._producer: _Producer | None = None
        _warn_once(source.here or "the data")

    @property
    def endless(self) -> bool:
        """Whether the data is repeated without end."""
        return self.batches is not None

    @property
    def error(self) -> BaseException | None:
        """The error that ended the batches early, if any."""
        return None if self._producer is None else self._producer.error

    def start(self) -> Pipelines:
        """Start making batches, and return the pipelines that take them."""
        self.close()
        name = Name(self._coordinator.container, f"batches/{uuid.uuid4().hex}")
        with self._coordinator.tracing():
            queue = BatchQueue(name, self.element_spec, self._capacity)
        self._producer = _Producer(queue, self._source, self.endless)
        spec = datasets.flat_spec(self.element_spec)
        return Pipelines(graphs=[], spec=spec, shards=1, repeat=False, queue=queue.spec())

    def close(self) -> None:
        """Stop making batches, and end the waiting of workers that wait for one."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer.cut_off()
        deadline = time.monotonic() + _END_TIMEOUT_S
        while not producer.join(_POLL_S) and time.monotonic() < deadline:
            self._coordinator.servers.repeat_signal()


class _Producer:
    """A thread that puts batches into a queue.

    Args:
      queue: the queue.
      source: the source of the batches.
      endless: whether to repeat the source without end.
    """

    def __init__(self, queue: BatchQueue, source: Source, endless: bool) -> None:
        self._error: BaseException | None = None
        self._queue, self._source, self._endless = queue, source, endless
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tf_backup-batches", daemon=True)
        self._thread.start()

    @property
    def error(self) -> BaseException | None:
        """The error that user code has raised, or the reason why a batch could not be sent."""
        return self._error or self._queue.error

    def cut_off(self) -> None:
        """Close the queue at once, and stop the thread as soon as user code returns."""
        self._over.set()
        self._queue.cut_off()

    def join(self, timeout_s: float) -> bool:
        """Wait for this thread and the queue's thread; return whether both have ended."""
        self._thread.join(timeout_s)
        return self._queue.join(timeout_s) and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._make_pass()
                if not self._endless:
                    return
        except BaseException as error:
            if not self._over.is_set():
                self._error = next(iter(self._source.errors), self._queue.error or error)
        finally:
            self._queue.close()

    def _make_pass(self) -> None:
        """Put the batches of one pass into the queue."""
        self._source.begin()
        try:
            for batch in self._source.dataset:
                if self._over.is_set():
                    return
                self._queue.put(batch)
        finally:
            self._source.end()


_warned: set[str] = set()


def _warn_once(what: str) -> None:
    if what not in _warned:
        _warned.add(what)
        log.warning(
            "The workers cannot read %s: this process makes the batches for all of them, and more "
            "workers are of use only as long as it keeps up. Let the workers of a large training "
            "read files: give a tf.data.Dataset of TensorFlow's own operations, or a function from "
            "tf.distribute.InputContext to one.",
            what,
        )
