"""Board through which the tasks of a cluster communicate: named resources on the first server.

The chief and the workers call only the parameter servers. The chief writes what is to be done, and
workers read it. Each task increments a counter while it is alive, so no clocks are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_backup._tf import client_calls, graphs
from tf_backup._tf.named import Name, NamedLock, NamedQueue, NamedVariable
from tf_backup.annotations import Tensor
from tf_backup.servers.tokens import DEVICE, GATE_SERVER

_NAME = Name("tf-backup", "board")

FREE = -1  # In `Lease.beats`: there is no chief.
_ERRORS, _CALLS = 256, 64

# Instead of the number of a life, which is above 0.
NEVER, LEFT = 0, -1


class Lease(NamedTuple):
    """The chief's lease on the servers."""

    generation: int  # number of chiefs so far
    beats: int  # heartbeats of the current chief; FREE: it has left


class _StoredLease(NamedTuple):
    """What the server keeps of leases, as a [3] int64 variable; here each a [] int64 tensor."""

    generation: Any  # as in Lease
    beats: Any  # as in Lease
    life: Any  # the latest life of any worker

    @classmethod
    def of(cls, value: Tensor) -> _StoredLease:
        return cls(*tf.unstack(value, 3))


class _Members(NamedTuple):
    """What the server keeps of workers, as a [2, workers] int64 variable; here a row each."""

    lives: Any
    beats: Any

    @classmethod
    def of(cls, value: Tensor) -> _Members:
        return cls(*tf.unstack(value, 2))


class Look(NamedTuple):
    """The state of the other tasks, as the chief sees it."""

    lease: Lease
    lives: np.ndarray[Any, Any]  # [workers] the number of each worker's life, NEVER or LEFT
    beats: np.ndarray[Any, Any]  # [workers] heartbeats of each worker
    errors: list[dict[str, Any]]  # errors that workers have reported


class Board:
    """The board of one cluster, as any of its tasks sees it.

    Args:
      workers: number of workers in the cluster.
    """

    def __init__(self, workers: int) -> None:
        def variable(name: str, dtype: tf.DType, shape: list[int]) -> NamedVariable:
            return NamedVariable(GATE_SERVER, _NAME / name, dtype, shape, owner=False)

        self.workers = workers
        self._lock = NamedLock(GATE_SERVER, _NAME / "lock", owner=False)
        self._lease = variable("lease", tf.int64, [3])  # A _StoredLease.
        self._members = variable(f"members/{workers}", tf.int64, [2, workers])  # _Members.
        self._notice = variable("notice", tf.string, [])
        self._errors = NamedQueue(
            GATE_SERVER, _NAME / "errors", [tf.string], [[]], _ERRORS, owner=False
        )
        self._calls = [
            NamedQueue(GATE_SERVER, _NAME / f"calls/{i}", [tf.int64], [[2]], _CALLS, owner=False)
            for i in range(workers)
        ]

    # ---- For all tasks ------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether there has been a chief since the first server started."""
        return self._notice.has_value()

    def notice(self) -> dict[str, Any]:
        """Return the chief's notice."""
        notice: dict[str, Any] = json.loads(self._notice.fetch())
        return notice

    # ---- For the chief ------------------------------------------------------------------------

    def lease(self) -> Lease:
        """Return the chief's lease."""
        if not self._lease.has_value():
            return Lease(0, FREE)
        stored = _StoredLease(*map(int, self._lease.fetch()))
        return Lease(stored.generation, stored.beats)

    def take(self, seen: Lease, notice: dict[str, Any]) -> int:
        """Take the chief's lease if it is unchanged since `seen`, and write the notice.

        Returns:
          The generation of the new chief; 0 if another chief came first.
        """
        return int(self._take(tf.constant(seen, tf.int64), tf.constant(json.dumps(notice))))

    def write(self, notice: dict[str, Any]) -> None:
        """Write the notice, and call the workers to read it."""
        self._notice.assign(json.dumps(notice))
        self._call()

    def look(self, generation: int) -> Look:
        """Send a heartbeat of this chief, and return the state of the other tasks."""
        lease, members, errors = self._look(tf.constant(generation, tf.int64))
        reports = [json.loads(error) for error in errors.numpy()]
        lives, beats = members.numpy()
        return Look(Lease(*map(int, lease.numpy())), lives, beats, reports)

    def free(self, generation: int) -> None:
        """Release the lease of this chief."""
        self._free(tf.constant(generation, tf.int64))

    # ---- For a worker -------------------------------------------------------------------------

    def register(self, worker: int) -> int:
        """Start a life of a worker, and return its number."""
        return int(self._register(tf.constant(worker, tf.int64)))

    def beat(self, worker: int, life: int) -> bool:
        """Send a heartbeat of a worker, and return whether the board still lists its life."""
        return bool(self._beat(tf.constant([worker, life], tf.int64)))

    def wait(self, worker: int, life: int) -> None:
        """Wait until the chief calls, after which there may be a new notice."""
        self._await(tf.constant([worker, life], tf.int64))

    def tell(self, error: dict[str, Any]) -> None:
        """Report an error to the chief, unless many reports are still unread."""
        self._tell(tf.constant(json.dumps(error)))

    def leave(self, worker: int, life: int) -> None:
        """Record that a worker has left, after the chief has dismissed it."""
        self._beat(tf.constant([worker, life], tf.int64), tf.constant(True))

    # ---- On the server ------------------------------------------------------------------------

    @client_calls.called_eagerly
    def _take(self, seen: Tensor, notice: Tensor) -> Tensor:
        def anew(lease: _StoredLease) -> Tensor:
            generation = lease.generation + 1
            new = tf.stack(lease._replace(generation=generation, beats=np.int64(0)))
            members = tf.zeros([2, self.workers], tf.int64)
            done = [
                self._lease.assign(new, read_value=False),
                self._members.assign(members, read_value=False),
                self._notice.assign(notice, read_value=False),
                self._errors.drain(),
            ]
            with tf.control_dependencies(done):
                return tf.identity(generation)

        def body() -> Tensor:
            nobody = tf.constant(_StoredLease(generation=0, beats=FREE, life=0), tf.int64)
            lease = _StoredLease.of(
                tf.cond(self._lease.exists(), self._lease.read_value, lambda: nobody)
            )
            now = tf.stack(Lease(lease.generation, lease.beats))
            unchanged = tf.reduce_all(tf.equal(now, seen))
            return tf.cond(unchanged, lambda: anew(lease), lambda: np.int64(0))

        return self._locked(body)

    @client_calls.called_eagerly
    def _free(self, generation: Tensor) -> Tensor:
        def body() -> Tensor:
            lease = _StoredLease.of(self._lease.read_value())
            mine = tf.equal(lease.generation, generation)
            new = lease._replace(beats=tf.where(mine, np.int64(FREE), lease.beats))
            with tf.control_dependencies([self._lease.assign(tf.stack(new), read_value=False)]):
                return tf.constant(True)

        return self._locked(body)

    @client_calls.called_eagerly
    def _look(self, generation: Tensor) -> Any:
        def body() -> tuple[Tensor, Tensor, Tensor]:
            lease = _StoredLease.of(self._lease.read_value())
            mine = tf.equal(lease.generation, generation)
            new = lease._replace(beats=lease.beats + tf.cast(mine, tf.int64))
            errors = self._errors.take_many(self._errors.size())[0]
            done = [self._lease.assign(tf.stack(new), read_value=False), errors]
            with tf.control_dependencies(done):
                now = tf.stack(Lease(new.generation, new.beats))
                return now, self._members.read_value(), tf.identity(errors)

        return self._locked(body)

    @client_calls.called_eagerly
    def _call(self) -> Tensor:
        """Call every worker whose queue has room; the others have unread calls anyway."""
        with tf.device(DEVICE):
            lives = _Members.of(self._members.read_value()).lives
            done = []
            for worker, queue in enumerate(self._calls):
                call = tf.stack([lives[worker], np.int64(0)])
                room = queue.size() < _CALLS // 2
                done.append(queue.put_many(tf.boolean_mask(call[None], room[None])))
            with tf.control_dependencies(done):
                return tf.constant(True)

    @client_calls.called_eagerly
    def _register(self, worker: Tensor) -> Tensor:
        def body() -> Tensor:
            lease = _StoredLease.of(self._lease.read_value())
            life = lease.life + 1
            mine = tf.equal(tf.range(self.workers, dtype=tf.int64), worker)
            members = _Members.of(self._members.read_value())
            members = members._replace(lives=tf.where(mine, life, members.lives))
            done = [
                self._lease.assign(tf.stack(lease._replace(life=life)), read_value=False),
                self._members.assign(tf.stack(members), read_value=False),
            ]
            with tf.control_dependencies(done):
                return tf.identity(life)

        return self._locked(body)

    @client_calls.called_eagerly
    def _beat(self, me: Tensor, leaves: Tensor = False) -> Tensor:
        def body() -> Tensor:
            worker, life = me[0], me[1]
            mine = tf.equal(tf.range(self.workers, dtype=tf.int64), worker)
            members = _Members.of(self._members.read_value())
            known = mine & tf.equal(members.lives, life)
            left = tf.where(leaves, np.int64(LEFT), life)
            new = _Members(
                lives=tf.where(known, left, members.lives),
                beats=members.beats + tf.cast(known, tf.int64),
            )
            with tf.control_dependencies([self._members.assign(tf.stack(new), read_value=False)]):
                return tf.reduce_any(known)

        return self._locked(body)

    @client_calls.called_eagerly
    def _await(self, me: Tensor) -> Tensor:
        def at_server(me: Tensor) -> Tensor:
            with tf.device(DEVICE):
                queue = graphs.select([each.handle for each in self._calls], me[0])
                call = graphs.take_until(queue, lambda call: call[0] >= me[1])
                # A dead client's dequeue has taken a later life's call: put it back.
                back = tf.boolean_mask(call[None], (call[0] > me[1])[None])
                with tf.control_dependencies([graphs.put_many(queue, back)]):
                    return tf.constant(True)

        return graphs.on_server(GATE_SERVER, at_server, me)

    @client_calls.called_eagerly
    def _tell(self, error: Tensor) -> Tensor:
        with tf.device(DEVICE):
            room = self._errors.size() < _ERRORS // 2
            report = tf.boolean_mask(error[None], room[None])
            with tf.control_dependencies([self._errors.put_many(report)]):
                return tf.constant(True)

    def _locked(self, body: Callable[[], Any]) -> Any:
        def at_server() -> Any:
            with tf.device(DEVICE):
                return self._lock.holding(body, branches=True)

        return graphs.on_server(GATE_SERVER, at_server)
