"""Agent of a worker process, which reads jobs from the board and does them.

A worker process is a client of the parameter servers only. It needs neither Keras nor user code,
because the chief has traced everything that it runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import tensorflow as tf

from tf_backup._tf import datasets, runtime, serialized
from tf_backup._tf.named import read_strings
from tf_backup._tf.strategies import connect
from tf_backup.actors.failures import gist
from tf_backup.network import arrivals
from tf_backup.network.parameter_servers import Servers
from tf_backup.rules import pieces, protocol
from tf_backup.rules.members import HEARTBEAT_S
from tf_backup.servers.batch_queue import BatchReader
from tf_backup.servers.board import Board
from tf_backup.worker_data import open_pipeline

log = logging.getLogger(__name__)

_POLL_S = 0.2
# How long a server may be silent, or heartbeats may fail, before this process restarts.
_SERVER_TIMEOUT_S = 30.0
_SPARE_POLL_S = 1.0  # How often a spare worker asks whether a place is free.

# Errors of calls to a server that is gone, or that has forgotten this client.
_GONE = (tf.errors.UnavailableError, tf.errors.AbortedError)


class Dismissed(Exception):
    """Raised when the chief has announced that training is done."""


class Agent:
    """Worker that serves whichever chief the board names, until it is dismissed.

    Args:
      addresses: `host:port` of the cluster's tasks, by job.
      index: index of this worker.
    """

    def __init__(self, addresses: dict[str, list[str]], index: int) -> None:
        self._index = index
        self._workers = len(addresses["worker"])
        with arrivals.present(addresses["worker"][index]):  # Probes see that it is alive.
            arrivals.wait_for(addresses["ps"])
        self._servers = Servers(addresses["ps"], _SERVER_TIMEOUT_S)
        connect(addresses, "worker", index, addresses["worker"][index])
        self._board = Board(self._workers)
        self._programs: dict[str, _Program] = {}

    def work(self) -> None:
        """Do the jobs on the board until training is done.

        Raises:
          Dismissed: when training is done.
          ValueError: if this worker does not match its chief's cluster.
        """
        try:
            while not self._board.exists:
                time.sleep(_POLL_S)
            while True:
                self._live()
        except tf.errors.OpError as error:
            self._servers.look()
            log.info("worker %d: %s", self._index, self._servers.lost or gist(error))
            start_anew()

    # ---- A life -------------------------------------------------------------------------------

    def _live(self) -> None:
        """Register, and work until this life ends."""
        self._check_fit(self._board.notice())
        life = _Life(self._board.register(self._index))
        heart = threading.Thread(target=self._heart, args=(life,), name="heart", daemon=True)
        heart.start()
        try:
            done = 0
            while not life.over.is_set():
                notice = self._board.notice()
                if notice["dismissed"]:
                    self._board.leave(self._index, life.number)
                    raise Dismissed
                job = notice["job"]
                if job is None or job["number"] == done:
                    life.call(self._board.wait, self._index, life.number)
                else:
                    self._do(job, life)
                    done = job["number"]
        except tf.errors.CancelledError:
            if not life.over.is_set():
                raise
        finally:
            given_up = life.over.is_set()
            life.over.set()
            heart.join()
        if given_up:
            log.info("worker %d was given up, and begins again.", self._index)

    def _heart(self, life: _Life) -> None:
        """Send heartbeats, and end this life once the board no longer lists it.

        A failed heartbeat is followed by the next: a reset connection, for instance, costs one. If
        they go on failing although the servers answer, this process restarts.
        """
        failed = 0  # In a row. A time would include that of a frozen process.
        while not life.over.wait(HEARTBEAT_S):
            try:
                if not self._board.beat(self._index, life.number):
                    life.end()
                    return
                failed = 0
            except tf.errors.OpError as error:
                failed += 1
                if failed * HEARTBEAT_S > _SERVER_TIMEOUT_S:
                    log.info("worker %d: heartbeats fail: %s", self._index, gist(error))
                    start_anew()
            self._check()

    def _check(self) -> None:
        """Restart this process if a server is lost: its TensorFlow context cannot be repaired."""
        if self._servers.lost is not None:
            log.info("%s", self._servers.lost)
            start_anew()

    # ---- Jobs ---------------------------------------------------------------------------------

    def _do(self, job: dict[str, Any], life: _Life) -> None:
        """Do a job, and report errors to the chief."""
        try:
            program = self._program(job)
            life.call(getattr(program, job["kind"]), self._index, life.number, job)
        except (*_GONE, tf.errors.CancelledError):
            raise
        except tf.errors.OpError as error:
            self._tell(job["number"], type(error).__name__, gist(error))
        except Exception as error:
            self._tell(job["number"], type(error).__name__, str(error))
            raise

    def _tell(self, job: int | None, kind: str, message: str) -> None:
        """Report an error to the chief, with the number of its job if it occurred in one."""
        log.info("worker %d: %s: %s", self._index, kind, message)
        self._board.tell({"worker": self._index, "job": job, "type": kind, "message": message})

    def _check_fit(self, notice: dict[str, Any]) -> None:
        """Check that this worker matches its chief's cluster and TensorFlow version."""
        wrong = None
        if notice["tensorflow"] != tf.__version__:
            wrong = (
                f"worker {self._index} has TensorFlow {tf.__version__}, but its chief "
                f"({notice['chief']}) has {notice['tensorflow']}: graphs of one may not run in the "
                "other. Install the same version everywhere."
            )
        if notice["workers"] != self._workers:
            wrong = (
                f"TF_CONFIG of worker {self._index} has {self._workers} workers, but that of its "
                f"chief ({notice['chief']}) has {notice['workers']}: give all tasks the same "
                "cluster."
            )
        if wrong is not None:
            self._tell(None, ValueError.__name__, wrong)
            raise ValueError(wrong)

    def _program(self, job: dict[str, Any]) -> _Program:
        """Return a job's program. It is fetched and loaded at its first use."""
        name = job["program"]["attributes"]["shared_name"]
        if name not in self._programs:
            for known in set(self._programs) - set(job["programs"]):  # The chief has dropped it.
                self._programs.pop(known).close()
            self._programs[name] = _Program(job["program"])
        return self._programs[name]


class _Life:
    """A worker's life, from its registration until it ends or is given up.

    Args:
      number: unique number of this life.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.over = threading.Event()
        self._call = runtime.Cancelable()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function that may wait for other tasks; it is canceled when this life ends."""
        # A failed call cancels every other call of the same `Cancelable`.
        self._call = runtime.Cancelable()
        if not self.over.is_set():
            self._call(function, *args)

    def end(self) -> None:
        """End this life, from another thread."""
        self.over.set()
        self._call.cancel()


class _Program:
    """Functions that a chief has traced for workers.

    Args:
      spec: spec of the variable that holds them on a server.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        parts = read_strings(spec)
        self._functions = dict(map(serialized.load, parts[::2], parts[1::2]))
        self._iterator: tuple[tuple[int, int], Any] | None = None
        self._reader: BatchReader | None = None

    def train(self, worker: int, life: int, job: dict[str, Any]) -> None:
        """Contribute to a run, as soon as there is a place for this worker."""
        me = [tf.constant(number, tf.int64) for number in (worker, life, job["run"])]
        while True:
            place = int(self._functions["admit"](*me)[0])
            if place == protocol.STOP:
                return
            if place == protocol.NO_PLACE:
                time.sleep(_SPARE_POLL_S)
                continue
            iterator = self._open(job["data"], place)
            then = self._functions["loop"](
                tf.constant(place, tf.int64), *me[1:], datasets.resource_of(iterator)
            )
            if int(then[0]) == protocol.STOP:
                return

    def evaluate(self, worker: int, life: int, job: dict[str, Any]) -> None:
        """Compute pieces of an evaluation until it is over."""
        me = [tf.constant(number, tf.int64) for number in (worker, life, job["run"])]
        graphs = read_strings(job["data"]["graphs"])
        then = self._functions["next"](*me)[0]
        while True:
            lane, start = (int(number) for number in then)
            if lane == pieces.STOP:
                return
            if lane == pieces.WAIT:
                time.sleep(_POLL_S)
                then = self._functions["next"](*me)[0]
                continue
            dataset = open_pipeline(job["data"], graphs[lane % len(graphs)], lane, skip=start)
            iterator = iter(dataset)
            handle = datasets.resource_of(iterator)
            then = self._functions["pieces"](*me, *tf.unstack(then), handle)[0]
            kept = [iterator]
            del iterator, handle
            _let_go(kept)

    def close(self) -> None:
        """Release the batches that have not been used."""
        if self._reader is not None:
            self._reader.close()
        kept, self._iterator = [self._iterator], None
        _let_go(kept)

    def _open(self, data: dict[str, Any], place: int) -> Any:
        """Return the iterator of a place, which continues from run to run."""
        key = (data["number"], place)
        if self._iterator is None or self._iterator[0] != key:
            self.close()
            self._iterator = key, iter(self._dataset(data, place))
        return self._iterator[1]

    def _dataset(self, data: dict[str, Any], place: int) -> Any:
        """Return the data set for a place."""
        self._reader = data["queue"] and BatchReader(data["queue"])
        graphs = read_strings(data["graphs"])  # Fails if the chief has deleted data and queue.
        if self._reader is not None:
            return self._reader.dataset()
        return open_pipeline(data, graphs[place % len(graphs)], place)


def _let_go(iterators: list[Any]) -> None:
    """Release iterators in a new thread, because this waits for their prefetching threads.

    In about one of twenty fits that took 10 to 25 s, which delayed the worker's next run.

    Args:
      iterators: list that holds the last references to the iterators.
    """
    threading.Thread(target=iterators.clear, daemon=True).start()


def start_anew() -> NoReturn:
    """Restart this process from its first line, under the same process id.

    Signals that arrive meanwhile stay pending until `server.serve` listens again.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
