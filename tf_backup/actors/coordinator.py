"""The chief's side of a cluster: a client of the parameter servers, and of nobody else."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tf_backup import errors
from tf_backup._tf import runtime
from tf_backup.actors.failures import GONE
from tf_backup.network import status
from tf_backup.network.parameter_servers import Servers
from tf_backup.rules.members import Members
from tf_backup.servers.board import FREE, Board

log = logging.getLogger(__name__)

LEASE_S = 10.0  # How long a chief that is not heard of keeps its servers.
_BEAT_S = 0.5
_POLL_S = 0.1
_GONE_DEVICE = "/job:localhost/"  # Of a process that is no task of a cluster.
_CONTAINER = "tf-backup.{generation}"

_coordinators: weakref.WeakKeyDictionary[Any, Coordinator] = weakref.WeakKeyDictionary()


class Coordinator:
    """What a chief has of its cluster beside the strategy.

    It holds the servers' lease as long as it lives, reads how the workers are, and tells them what
    to do. No call to a server waits for ever, and no wait in the main thread is inside TensorFlow.

    Args:
      addresses: the `host:port` of the tasks, by job. This process is connected to the servers.
      servers: watches over the servers.
      worker_timeout_s: how long a worker's lease lasts.

    Raises:
      ClusterError: if another chief has the servers.
      ValueError: if `worker_timeout_s` is too short.
    """

    def __init__(
        self, addresses: dict[str, list[str]], servers: Servers, worker_timeout_s: float
    ) -> None:
        self.addresses = addresses
        self.servers = servers
        self.members = Members(len(addresses["worker"]), worker_timeout_s)
        self._superseded: str | None = None
        self._errors: list[dict[str, Any]] = []
        self._jobs = 0
        self._closed = threading.Event()
        with self.tracing():
            self._board = Board(len(addresses["worker"]))
        self._me = f"{addresses['chief'][0]}, process {os.getpid()} on {socket.gethostname()}"
        self._notice: dict[str, Any] = {
            "chief": self._me,
            "tensorflow": tf.__version__,
            "workers": len(addresses["worker"]),
            "dismissed": False,
            "job": None,
        }
        self.generation = self._claim()
        self.container = _CONTAINER.format(generation=self.generation)
        self._thread = threading.Thread(target=self._beat, name="chief-lease", daemon=True)
        self._thread.start()

    # ---- What others do -----------------------------------------------------------------------

    def announce(self, job: dict[str, Any] | None) -> int:
        """Tells the workers what to do from now on; returns the job's number."""
        self._jobs += 1
        self._errors = []
        self._notice["job"] = job and {"number": self._jobs, **job}
        self._board.write(self._notice)
        return self._jobs

    def worker_errors(self) -> list[dict[str, Any]]:
        """Returns the errors that workers have met in the job at hand."""
        return [error for error in self._errors if error["job"] == self._jobs]

    def dismiss(self, patience_s: float) -> list[int]:
        """Tells the workers that training is done; returns those that have not heard it."""
        self._notice.update(dismissed=True, job=None)
        self._board.write(self._notice)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not all(self.members.left):
            if self.servers.lost or not self._thread.is_alive():
                break
            time.sleep(_POLL_S)
        return [worker for worker, left in enumerate(self.members.left) if not left]

    # ---- Calls and waits ----------------------------------------------------------------------

    def tracing(self) -> Any:
        """Returns a context in which functions are traced; see `runtime.tracing`."""
        return runtime.tracing(len(self.addresses["ps"]))

    def check(self, cause: BaseException | None = None) -> None:
        """Raises an error if a server is lost, or this chief's time is over.

        In the main thread, also raises what a signal should have raised.
        """
        if threading.current_thread() is threading.main_thread():
            self.servers.repeat_signal()
        if self.servers.lost is not None:
            raise errors.ParameterServerLost(
                f"{self.servers.lost} Start it again, then run this command again; it goes on from "
                "the last checkpoint if it saves them."
            ) from cause
        if self._superseded is not None:
            raise errors.ClusterError(
                f"Another chief has taken over: {self._superseded}. Only one may train on these "
                "parameter servers at a time."
            ) from cause

    @contextlib.contextmanager
    def told_plainly(self) -> Iterator[None]:
        """Raises our own error in the place of what TensorFlow says of a lost server.

        Also of what was made before this process was a task of the cluster: its device is gone.
        """
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            if _GONE_DEVICE not in error.message:
                raise
            raise ValueError(
                "Something that is used here was made before the strategy: a layer or metric, a "
                "variable, or a data set. Make the strategy at the beginning of the script, and "
                "everything else after it; layers, metrics and optimizers inside `with "
                "strategy.scope():`."
            ) from error
        except GONE as error:
            self.servers.look()
            self.check(error)
            raise

    def call(
        self, function: Callable[[], Any], meanwhile: Callable[[], None] = lambda: None
    ) -> Any:
        """Calls a function that may wait long, in another thread; returns what it returns.

        Args:
          function: to call.
          meanwhile: called from time to time while it takes long; may raise an error.

        Raises:
          ParameterServerLost, ClusterError: if a server is lost meanwhile, and what it raises.
        """
        results: list[Any] = []

        def run() -> None:
            try:
                results.append((function(), None))
            except BaseException as error:
                results.append((None, error))

        thread = threading.Thread(target=run, name="tf_backup-call", daemon=True)
        thread.start()
        looked = time.monotonic()
        while not results:
            thread.join(_POLL_S)
            self.check()
            if not results and time.monotonic() - looked > _BEAT_S:
                meanwhile()
                looked = time.monotonic()
        thread.join()
        value, error = results[0]
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Gives the servers free."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join(2 * _BEAT_S)
        if self.servers.lost is None and not self._thread.is_alive():
            with contextlib.suppress(tf.errors.OpError):
                self._board.free(self.generation)
        self.servers.close()

    # ---- The lease ----------------------------------------------------------------------------

    def _claim(self) -> int:
        """Takes the servers; returns the number of this chief.

        One that died is waited for until its lease has ended, one that lives is not.
        """
        since, reported = time.monotonic(), False
        seen = self._board.lease()
        while seen.beats != FREE and time.monotonic() - since < LEASE_S:
            now = self._board.lease()
            if now != seen:
                if now.beats != FREE:
                    raise errors.ClusterError(
                        f"The parameter servers have a chief already: {self._holder()}. Wait until "
                        "it has ended, or give this one servers of its own."
                    )
                seen = now
                break
            if not reported and time.monotonic() - since > 2 * _BEAT_S:
                log.info(
                    "Taking over from the chief at %s, which has not been heard of; this takes up "
                    "to %.0f s.",
                    self._holder(),
                    LEASE_S,
                )
                reported = True
            time.sleep(_POLL_S)
        generation = self._board.take(seen, self._notice)
        if not generation:
            raise errors.ClusterError(
                "Another chief has taken the parameter servers at the same time. Start only one."
            )
        if generation > 1:
            self._clear(generation - 1)
        return generation

    def _holder(self) -> str:
        return str(self._board.notice()["chief"]) if self._board.exists else "unknown"

    def _clear(self, generation: int) -> None:
        """Clears what an earlier chief has left on the servers."""
        container = _CONTAINER.format(generation=generation)
        for address in self.addresses["ps"]:
            if not status.clear(address, container):
                log.info("What the last chief has left on %s could not be cleared.", address)

    def _beat(self) -> None:
        """Holds the lease, and looks at the workers."""
        while not self._closed.wait(_BEAT_S):
            try:
                look = self._board.look(self.generation)
            except tf.errors.OpError:
                if self.servers.lost is not None:
                    return
                continue  # The watch over the servers will say what it is.
            self.members.update(look.lives, look.beats)
            for error in look.errors:
                if error["job"] is None:
                    log.warning("%s", error["message"])
            self._errors += look.errors
            if look.lease.generation != self.generation:
                self._superseded = self._holder()
                return


def of(strategy: Any) -> Coordinator:
    """Returns the coordinator of a strategy that tf_backup has made.

    Raises:
      ValueError: if it is of somebody else's making.
    """
    if strategy not in _coordinators:
        raise ValueError(
            "The strategy was not made by tf_backup: TensorFlow's own connects to every worker. "
            "Make it with tf_backup.parameter_server_strategy() or LocalCluster.strategy()."
        )
    return _coordinators[strategy]


def register(strategy: Any, coordinator: Coordinator) -> None:
    """Notes the coordinator of a strategy."""
    _coordinators[strategy] = coordinator
