"""The chief's connection to a cluster, as a client of the parameter servers only."""

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
from tf_backup.actors.failures import GONE, worker_failed
from tf_backup.network import status
from tf_backup.network.parameter_servers import Servers
from tf_backup.rules.members import Members
from tf_backup.servers.board import FREE, Board

log = logging.getLogger(__name__)

LEASE_S = 10.0  # How long a silent chief keeps its servers.
_BEAT_S = 0.5
_POLL_S = 0.1
_GONE_DEVICE = "/job:localhost/"  # Device of a process outside a cluster.
_CONTAINER = "tf-backup.{generation}"

_coordinators: weakref.WeakKeyDictionary[Any, Coordinator] = weakref.WeakKeyDictionary()


class Coordinator:
    """The chief's connection to its cluster.

    It holds the lease on the servers, watches the workers, and tells them what to do. No call to a
    server waits for ever, and the main thread never waits inside TensorFlow.

    Args:
      addresses: `host:port` of the tasks, by job. This process is connected to the servers.
      servers: watch over the parameter servers.
      worker_timeout_s: length of a worker's lease.
      local: whether the tasks belong to this process, so that nobody else can start them.

    Raises:
      ClusterError: if another chief has the servers.
      ValueError: if `worker_timeout_s` is too short.
    """

    def __init__(
        self,
        addresses: dict[str, list[str]],
        servers: Servers,
        worker_timeout_s: float,
        local: bool = False,
    ) -> None:
        self.addresses = addresses
        self._local = local
        self.servers = servers
        self.members = Members(len(addresses["worker"]), worker_timeout_s)
        self._superseded: str | None = None
        self._errors: list[dict[str, Any]] = []
        self._jobs = 0
        self._repeating = 0  # Number of calls that are in `repeating_signals`.
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

    # ---- The workers --------------------------------------------------------------------------

    def announce(self, job: dict[str, Any] | None) -> int:
        """Announce a job (or none) to the workers, and return its number."""
        self._jobs += 1
        self._errors = []
        self._notice["job"] = job and {"number": self._jobs, **job}
        self._board.write(self._notice)
        return self._jobs

    def worker_errors(self) -> list[dict[str, Any]]:
        """Return the errors that workers have reported in the current job."""
        return [error for error in self._errors if error["job"] == self._jobs]

    def check_workers(self) -> None:
        """Raise the first error that a worker has reported in the current job.

        Raises:
          WorkerFailed: with the error's cause.
        """
        for error in self.worker_errors():
            raise worker_failed(error)

    def dismiss(self, patience_s: float) -> list[int]:
        """Tell the workers that training is done, and return those that have not confirmed it."""
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
        """Return a context for tracing functions; see `runtime.tracing`."""
        return runtime.tracing(len(self.addresses["ps"]))

    def check(self, cause: BaseException | None = None) -> None:
        """Raise an error if a server is lost, or if another chief has taken over.

        In the main thread, also raise the exception of a signal if it was lost.
        """
        if threading.current_thread() is threading.main_thread():
            self.servers.repeat_signal()
        if self.servers.lost is not None:
            raise errors.ParameterServerLost(f"{self.servers.lost} {self.remedy('it')}") from cause
        if self._superseded is not None:
            raise errors.AnotherChief(
                f"Another chief has taken over: {self._superseded}. Only one may train on these "
                "parameter servers at a time."
            ) from cause

    @contextlib.contextmanager
    def repeating_signals(self) -> Iterator[None]:
        """Let `check` raise lost exceptions of signals that come in this context, and no others.

        A script may have handled what came before. What comes in this context ends it, so the
        signal is not repeated during the cleanup after it.
        """
        if not self._repeating:
            self.servers.forget_signal()
        self._repeating += 1
        try:
            yield
        finally:
            self._repeating -= 1
            if not self._repeating:
                self.servers.forget_signal()

    def remedy(self, tasks: str) -> str:
        """Return what helps when tasks are lost; `tasks` is "it" or "them"."""
        start = "" if self._local else f"Start {tasks} again. "
        return start + "If this script saves checkpoints, it goes on from the last when run again."

    @contextlib.contextmanager
    def told_plainly(self) -> Iterator[None]:
        """Replace TensorFlow's errors about a lost server with `ParameterServerLost`.

        Objects created before this process joined the cluster raise `ValueError`: their device
        is gone.
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
        """Call a function that may take long in another thread, and return its result.

        Args:
          function: the function to call.
          meanwhile: called from time to time during the call; may raise an error.

        Raises:
          ParameterServerLost, ClusterError: see `check`. Errors of `function` and `meanwhile` are
            raised as well.
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
        """Release the servers."""
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
        """Take the servers, and return the number of this chief.

        If the last chief died, wait until its lease has ended. If it is alive, raise an error.
        """
        since, reported = time.monotonic(), False
        seen = self._board.lease()
        while seen.beats != FREE and time.monotonic() - since < LEASE_S:
            now = self._board.lease()
            if now != seen:
                if now.beats != FREE:
                    raise errors.AnotherChief(
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
            raise errors.AnotherChief(
                "Another chief has taken the parameter servers at the same time. Start only one."
            )
        if generation > 1:
            self._clear(generation - 1)
        return generation

    def _holder(self) -> str:
        return str(self._board.notice()["chief"]) if self._board.exists else "unknown"

    def _clear(self, generation: int) -> None:
        """Delete the resources that an earlier chief has left on the servers."""
        container = _CONTAINER.format(generation=generation)
        for address in self.addresses["ps"]:
            if not status.clear(address, container):
                log.info("What the last chief has left on %s could not be cleared.", address)

    def _beat(self) -> None:
        """Keep the lease, and read the workers' heartbeats and errors."""
        while not self._closed.wait(_BEAT_S):
            try:
                look = self._board.look(self.generation)
            except tf.errors.OpError:
                if self.servers.lost is not None:
                    return
                continue  # The watch over the servers finds the cause.
            self.members.update(look.lives, look.beats)
            for error in look.errors:
                if error["job"] is None:
                    log.warning("%s", error["message"])
            self._errors += look.errors
            if look.lease.generation != self.generation:
                self._superseded = self._holder()
                return


def of(strategy: Any) -> Coordinator:
    """Return the coordinator of a strategy that tf_backup has created.

    Raises:
      ValueError: if tf_backup has not created the strategy.
    """
    if strategy not in _coordinators:
        raise ValueError(
            "The strategy was not made by tf_backup: TensorFlow's own connects to every worker. "
            "Make it with tf_backup.parameter_server_strategy() or LocalCluster.strategy()."
        )
    return _coordinators[strategy]


def register(strategy: Any, coordinator: Coordinator) -> None:
    """Register the coordinator of a strategy."""
    _coordinators[strategy] = coordinator
