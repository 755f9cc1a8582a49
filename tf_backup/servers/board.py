"""What all tasks of a cluster know of each other: a few named resources on the first server.

Nobody but the parameter servers is called. The chief writes what is to be done, and workers come
and read it. Who lives is told by counters that each task keeps moving; so no clocks are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_backup._tf import graphs
from tf_backup._tf.named import Name, NamedLock, NamedQueue, NamedVariable
from tf_backup.servers.tokens import DEVICE, GATE_SERVER

Tensor = Any

_NAME = Name("tf-backup", "board")

FREE = -1  # In the place of a chief's beats: there is none.
_ERRORS, _CALLS = 256, 64

# Where workers stand. A life is above 0.
NEVER, LEFT = 0, -1


class Lease(NamedTuple):
    """Which chief has the servers."""

    generation: int  # counts the chiefs; 0: there never was one
    beats: int  # counts while it lives; FREE: it has gone


class Look(NamedTuple):
    """What the chief sees of the others."""

    lease: Lease
    lives: np.ndarray[Any, Any]  # [workers] the number of each worker's life, NEVER or LEFT
    beats: np.ndarray[Any, Any]  # [workers] counts while the worker lives
    errors: list[dict[str, Any]]  # that workers have met


class Board:
    """The board of one cluster, as any of its tasks sees it.

    Args:
      workers: how many workers the cluster has.
    """

    def __init__(self, workers: int) -> None:
        def variable(name: str, dtype: tf.DType, shape: list[int]) -> NamedVariable:
            return NamedVariable(GATE_SERVER, _NAME / name, dtype, shape, owner=False)

        self.workers = workers
        self._lock = NamedLock(GATE_SERVER, _NAME / "lock", owner=False)
        self._lease = variable("lease", tf.int64, [3])  # Generation, beats, lives given so far.
        self._members = variable(f"members/{workers}", tf.int64, [2, workers])  # Lives, beats.
        self._notice = variable("notice", tf.string, [])
        self._errors = NamedQueue(
            GATE_SERVER, _NAME / "errors", [tf.string], [[]], _ERRORS, owner=False
        )
        self._calls = [
            NamedQueue(GATE_SERVER, _NAME / f"calls/{i}", [tf.int64], [[2]], _CALLS, owner=False)
            for i in range(workers)
        ]
        for name in ("_take", "_free", "_look", "_call", "_register", "_beat", "_await", "_tell"):
            setattr(self, name, graphs.function(getattr(self, name)))

    # ---- For everybody ------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether there has been a chief since the first server started."""
        return bool(self._notice.exists())

    def notice(self) -> dict[str, Any]:
        """Returns what the chief has written."""
        notice: dict[str, Any] = json.loads(self._notice.numpy())
        return notice

    # ---- For the chief ------------------------------------------------------------------------

    def lease(self) -> Lease:
        """Returns the chief's lease."""
        if not self._lease.exists():
            return Lease(0, FREE)
        generation, beats, _ = self._lease.numpy()
        return Lease(int(generation), int(beats))

    def take(self, seen: Lease, notice: dict[str, Any]) -> int:
        """Takes the servers if nothing has happened since `seen`, and writes the notice.

        Returns:
          The generation of the new chief; 0 if another one came first.
        """
        return int(self._take(tf.constant(seen, tf.int64), tf.constant(json.dumps(notice))))

    def write(self, notice: dict[str, Any]) -> None:
        """Writes what all are to know, and calls the workers to read it."""
        self._notice.assign(json.dumps(notice))
        self._call()

    def look(self, generation: int) -> Look:
        """Shows that this chief lives, and returns how the others are."""
        lease, members, errors = self._look(tf.constant(generation, tf.int64))
        told = [json.loads(error) for error in errors.numpy()]
        lives, beats = members.numpy()
        return Look(Lease(*map(int, lease.numpy()[:2])), lives, beats, told)

    def free(self, generation: int) -> None:
        """Says that this chief has gone."""
        self._free(tf.constant(generation, tf.int64))

    # ---- For a worker -------------------------------------------------------------------------

    def register(self, worker: int) -> int:
        """Begins a life of a worker; returns its number."""
        return int(self._register(tf.constant(worker, tf.int64)))

    def beat(self, worker: int, life: int) -> bool:
        """Shows that a worker lives; returns False if its life is over, as far as others know."""
        return bool(self._beat(tf.constant([worker, life], tf.int64)))

    def wait(self, worker: int, life: int) -> None:
        """Waits until the chief calls; then there may be something new to read."""
        self._await(tf.constant([worker, life], tf.int64))

    def tell(self, error: dict[str, Any]) -> None:
        """Tells the chief of an error, if it still hears."""
        self._tell(tf.constant(json.dumps(error)))

    def leave(self, worker: int, life: int) -> None:
        """Says that a worker has gone, after the chief has dismissed it."""
        self._beat(tf.constant([worker, life], tf.int64), tf.constant(True))

    # ---- On the server ------------------------------------------------------------------------

    def _take(self, seen: Tensor, notice: Tensor) -> Tensor:
        def anew(lease: Tensor) -> Tensor:
            new = tf.stack([lease[0] + 1, np.int64(0), lease[2]])
            members = tf.zeros([2, self.workers], tf.int64)
            done = [
                self._lease.assign(new, read_value=False),
                self._members.assign(members, read_value=False),
                self._notice.assign(notice, read_value=False),
                self._errors.drain(),
            ]
            with tf.control_dependencies(done):
                return tf.identity(new[0])

        def body() -> Tensor:
            nobody = tf.constant([0, FREE, 0], tf.int64)
            lease = tf.cond(self._lease.exists(), self._lease.read_value, lambda: nobody)
            unchanged = tf.reduce_all(tf.equal(lease[:2], seen))
            return tf.cond(unchanged, lambda: anew(lease), lambda: np.int64(0))

        return self._locked(body)

    def _free(self, generation: Tensor) -> Tensor:
        def body() -> Tensor:
            lease = self._lease.read_value()
            free = tf.stack([lease[0], np.int64(FREE), lease[2]])
            new = tf.where(tf.equal(lease[0], generation), free, lease)
            with tf.control_dependencies([self._lease.assign(new, read_value=False)]):
                return tf.constant(True)

        return self._locked(body)

    def _look(self, generation: Tensor) -> Any:
        def body() -> tuple[Tensor, Tensor, Tensor]:
            lease = self._lease.read_value()
            mine = tf.cast(tf.equal(lease[0], generation), tf.int64)
            new = lease + mine * tf.constant([0, 1, 0], tf.int64)
            errors = self._errors.take_many(self._errors.size())[0]
            with tf.control_dependencies([self._lease.assign(new, read_value=False), errors]):
                return tf.identity(new), self._members.read_value(), tf.identity(errors)

        return self._locked(body)

    def _call(self) -> Tensor:
        """Calls every worker whose queue has room: who has not heard a call will hear that one."""
        with tf.device(DEVICE):
            lives = self._members.read_value()[0]
            done = []
            for worker, queue in enumerate(self._calls):
                call = tf.stack([lives[worker], np.int64(0)])
                room = queue.size() < _CALLS // 2
                done.append(queue.put_many(tf.boolean_mask(call[None], room[None])))
            with tf.control_dependencies(done):
                return tf.constant(True)

    def _register(self, worker: Tensor) -> Tensor:
        def body() -> Tensor:
            lease = self._lease.read_value()
            life = lease[2] + 1
            mine = tf.equal(tf.range(self.workers, dtype=tf.int64), worker)
            members = self._members.read_value()
            lives = tf.where(mine, life, members[0])
            done = [
                self._lease.assign(tf.stack([lease[0], lease[1], life]), read_value=False),
                self._members.assign(tf.stack([lives, members[1]]), read_value=False),
            ]
            with tf.control_dependencies(done):
                return tf.identity(life)

        return self._locked(body)

    def _beat(self, me: Tensor, leaves: Tensor = False) -> Tensor:
        def body() -> Tensor:
            worker, life = me[0], me[1]
            mine = tf.equal(tf.range(self.workers, dtype=tf.int64), worker)
            lives, beats = tf.unstack(self._members.read_value())
            known = mine & tf.equal(lives, life)
            left = tf.where(leaves, np.int64(LEFT), life)
            new = tf.stack([tf.where(known, left, lives), beats + tf.cast(known, tf.int64)])
            with tf.control_dependencies([self._members.assign(new, read_value=False)]):
                return tf.reduce_any(known)

        return self._locked(body)

    def _await(self, me: Tensor) -> Tensor:
        def on_server(me: Tensor) -> Tensor:
            with tf.device(DEVICE):
                queue = graphs.select([each.handle for each in self._calls], me[0])
                call = graphs.take_until(queue, lambda call: call[0] >= me[1])
                # Of a dead client: what it waited for is a later life's.
                back = tf.boolean_mask(call[None], (call[0] > me[1])[None])
                with tf.control_dependencies([graphs.put_many(queue, back)]):
                    return tf.constant(True)

        return graphs.on_server(GATE_SERVER, on_server, me)

    def _tell(self, error: Tensor) -> Tensor:
        with tf.device(DEVICE):
            room = self._errors.size() < _ERRORS // 2
            told = tf.boolean_mask(error[None], room[None])
            with tf.control_dependencies([self._errors.put_many(told)]):
                return tf.constant(True)

    def _locked(self, body: Callable[[], Any]) -> Any:
        def on_server() -> Any:
            with tf.device(DEVICE):
                return self._lock.holding(body, branches=True)

        return graphs.on_server(GATE_SERVER, on_server)
