"""Queue of batches on the first parameter server: the chief puts them in, workers take them out."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_backup._tf import client_calls, datasets, graphs, runtime
from tf_backup._tf.named import Name, NamedQueue, open_handle, take
from tf_backup.annotations import Tensor
from tf_backup.servers.tokens import GATE_SERVER

log = logging.getLogger(__name__)

# Errors that end a loop: no more batches, cancellation, or a lost server, which is reported
# elsewhere.
_ENDS = (
    tf.errors.OutOfRangeError,
    tf.errors.CancelledError,
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
)


class BatchQueue:
    """The chief's end of the queue.

    Its functions are traced at construction, and the queue is deleted from the server when this
    object is collected. A single function, in a thread of its own, puts all batches in: one call
    for each batch took several times as long.

    Args:
      name: name of the queue on the server.
      element_spec: spec of the batches.
      capacity: number of batches that may wait for workers.

    Attributes:
      error: the error that stopped the sending of batches; None if there was none.
    """

    def __init__(self, name: Name, element_spec: Any, capacity: int) -> None:
        self.error: tf.errors.OpError | None = None
        self._element_spec = element_spec
        dtypes = [each.dtype for each in datasets.components(element_spec)]
        self._queue = NamedQueue(GATE_SERVER, name, dtypes, None, capacity)
        self._here = tf.queue.FIFOQueue(1, dtypes)
        self._calls = runtime.Cancelable()
        self._loop = client_calls.function(self._put_all).get_concrete_function()
        self._close = client_calls.function(self._close_queue).get_concrete_function()
        self._thread = threading.Thread(target=self._work, name="tf_backup-queue", daemon=True)
        self._thread.start()

    def spec(self) -> dict[str, Any]:
        """Return the JSON-serializable spec of the queue, for `BatchReader`."""
        return {"queue": self._queue.spec(), "element": datasets.write_spec(self._element_spec)}

    def put(self, batch: Any) -> None:
        """Put a batch in, waiting while the queue is full.

        Raises:
          tf.errors.CancelledError: if `cut_off` is called meanwhile, or the server is lost.
        """
        self._here.enqueue(datasets.components(batch))

    def close(self) -> None:
        """Declare that no batch will follow: workers take the remaining ones, and then finish."""
        _close_here(self._here)

    def cut_off(self) -> None:
        """Close the queue at once, also for a `put` that waits; called from any thread."""
        _close_here(self._here, cancel=True)
        self._calls.cancel()

    def join(self, timeout_s: float) -> bool:
        """Wait until all batches are on the server, and return whether they are."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        """Put batches in until there are no more, or `cut_off` is called."""
        try:
            self._calls(self._loop)
        except _ENDS:
            pass
        except tf.errors.OpError as error:
            self.error = error
        with contextlib.suppress(tf.errors.OpError):  # A lost server is reported elsewhere.
            self._close()
        _close_here(self._here, cancel=True)

    def _put_all(self) -> Any:
        def put_one() -> Tensor:
            batch = self._here.dequeue()
            batch = batch if isinstance(batch, list) else [batch]
            return graphs.on_server(GATE_SERVER, _after(self._queue.put), *batch)

        return _again_and_again(put_one)

    def _close_queue(self) -> Tensor:
        return graphs.on_server(GATE_SERVER, _after(self._queue.close))


def _again_and_again(turn: Callable[[], Any]) -> Tensor:
    """Loop until an operation of a turn fails; each turn starts when the last one is done."""

    def body(number: Tensor) -> Tensor:
        with tf.control_dependencies([number]):
            done = turn()
        with tf.control_dependencies([done]):
            return number + 1

    start = tf.constant(0, tf.int64)
    return tf.while_loop(lambda number: number >= 0, body, [start], parallel_iterations=1)


def _close_here(queue: Any, cancel: bool = False) -> None:
    """Close a queue of this process, unless it is already closed."""
    with contextlib.suppress(tf.errors.CancelledError):
        queue.close(cancel_pending_enqueues=cancel)


def _after(method: Callable[..., Any]) -> Callable[..., Tensor]:
    """Return a function that calls `method` and returns a tensor when its operation is done."""

    def call(*args: Tensor) -> Tensor:
        with tf.control_dependencies([method(*args)]):
            return tf.constant(True)

    return call


class BatchReader:
    """A worker's end of the queue.

    A batch is taken only when it is requested. So at most one batch is lost with a worker, and with
    b = 0 an update uses N consecutive batches. A single function, in a thread of its own, takes all
    batches: one call for each batch took several times as long.

    Args:
      spec: spec that `BatchQueue.spec` returned.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._element_spec = datasets.read_spec(spec["element"])
        self._handle = open_handle(spec["queue"])
        self._dtypes = [each.dtype for each in datasets.components(self._element_spec)]
        self._calls = runtime.Cancelable()
        self._wanted = tf.queue.FIFOQueue(1, [tf.int64], [[]])
        self._got = tf.queue.FIFOQueue(1, self._dtypes)
        loop = client_calls.function(self._loop).get_concrete_function()
        threading.Thread(target=self._take, args=(loop,), name="batches", daemon=True).start()

    def dataset(self) -> Any:
        """Return a dataset of this worker's batches, until the queue is closed and empty."""
        return datasets.from_queues(self._wanted, self._got, self._element_spec)

    def close(self) -> None:
        """Cancel a take that waits, and end the dataset."""
        self._calls.cancel()

    def _take(self, loop: Any) -> None:
        """Take batches until there are no more, or `close` is called."""
        try:
            self._calls(loop)
        except _ENDS:
            pass
        except tf.errors.OpError:
            log.exception("Batches can no longer be taken.")
        _close_here(self._got)
        _close_here(self._wanted, cancel=True)

    def _loop(self) -> Any:
        def take_one() -> Any:
            with tf.control_dependencies([self._wanted.dequeue()]):
                batch = graphs.on_server(
                    GATE_SERVER, lambda: take(self._handle, self._dtypes, None)
                )
            return self._got.enqueue(batch)

        return _again_and_again(take_one)
