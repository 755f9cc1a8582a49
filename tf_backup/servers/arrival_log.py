"""Log of gradients and updates, on the first parameter server: when each came, and its fate.

A row is added wherever the ledger counts how a contribution ended, in the same call and under the
same lock. The rows wait in a queue until the coordinator reads them, many at a time. If it does not
read them for long, new rows are dropped and counted: the log never delays training.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_backup._tf import graphs
from tf_backup._tf.named import Name, NamedQueue, NamedVariable
from tf_backup.rules import protocol
from tf_backup.servers.gate_rules import unpacked
from tf_backup.servers.tokens import DEVICE, GATE_SERVER

Tensor = Any

CAPACITY = 65536  # Rows that wait to be read: 5 MB at most.
FIELDS = 9  # Numbers in a row.
UPDATE = 100  # Code of an update's row. Other rows begin with a verdict of `protocol`, or LOST.
LOST = 5  # What a worker that died was computing.

# Verdicts, in the order of their counts in the ledger.
_ENDED = {
    "late": protocol.LATE,
    "stale": protocol.STALE,
    "duplicate": protocol.DUPLICATE,
    "lost": LOST,
    "nonfinite": protocol.NONFINITE,
}
_UNKNOWN = np.int64(-1)


class Offer(NamedTuple):
    """What is known of a gradient that a worker offers; int64 scalars."""

    place: Tensor
    run: Tensor
    step: Tensor
    compute: Tensor  # Microseconds that the worker took, by its own clock.


class ArrivalLog:
    """Queue of rows on the gate's server. Its methods for graphs are called under the gate's lock.

    A row is a vector of int64. Times are in microseconds, by the server's clock. That of a
    contribution: verdict, when it ended, when it began, step (-1 if unknown), place, worker, the
    step whose update is to use it, compute time, run. That of an update: UPDATE, when the workers
    were released, when the chief's loop began with it, step, when the gradients were taken, when
    the optimizer had run (-1 if unknown), run, 0, 0.

    Args:
      places: number of places.
      name: name of its resources on the server.
    """

    def __init__(self, places: int, name: Name) -> None:
        self._queue = NamedQueue(GATE_SERVER, name / "rows", [tf.int64], [[FIELDS]], CAPACITY)
        # Per place, when its contribution began; and last, how many rows were dropped.
        self._state = NamedVariable(GATE_SERVER, name / "state", tf.int64, [places + 1])
        self._state.assign(np.zeros([places + 1], np.int64))
        self._read = graphs.function(self._take_all)

    @property
    def resources(self) -> list[Any]:
        """The resources that workers find by name."""
        return [self._queue, self._state]

    def note(self, before: Tensor, after: Tensor, offer: Offer | None = None) -> list[Any]:
        """Add rows for contributions that ended in a call of the gate.

        Args:
          before: the packed ledger before the call.
          after: the packed ledger after it.
          offer: the worker's offer, if the call is one.

        Returns:
          The operations.
        """
        known = _no_offer() if offer is None else tf.stack(offer)
        rows, state = compared(before, after, known, self._state.read_value(), now())
        return self._put(rows, state)

    def note_update(self, before: Tensor, after: Tensor, times: Tensor) -> list[Any]:
        """Add the row of an update, and note that the released workers begin.

        Args:
          before: the packed ledger before the update counts.
          after: the packed ledger after.
          times: [3] when the update began, when its gradients were taken, and when the optimizer
            had run.

        Returns:
          The operations.
        """
        at, made = now(), unpacked(before)
        rows, state = compared(before, after, _no_offer(), self._state.read_value(), at)
        zero = tf.zeros([], tf.int64)
        update = [np.int64(UPDATE), at, times[0], made.step, times[1], times[2], made.run]
        return self._put(tf.concat([rows, tf.stack([*update, zero, zero])[None]], axis=0), state)

    def read(self) -> tuple[np.ndarray[Any, Any], int]:
        """Take all rows ([n, FIELDS]), and return them with the number dropped so far."""
        rows, dropped = self._read()
        return rows.numpy(), int(dropped)

    def _put(self, rows: Tensor, state: Tensor) -> list[Any]:
        """Add rows, or count them if they do not fit, and write the state."""
        count = tf.shape(rows)[0]
        fits = tf.cast(self._queue.size() + count <= CAPACITY, tf.int32)
        dropped = tf.cast(count * (1 - fits), tf.int64)
        state = tf.concat([state[:-1], state[-1:] + dropped], axis=0)
        return [
            self._queue.put_many(rows[: count * fits]),
            self._state.assign(state, read_value=False),
        ]

    def _take_all(self) -> tuple[Tensor, Tensor]:
        with tf.device(DEVICE):
            return self._queue.take_many(self._queue.size())[0], self._state.read_value()[-1]


def now() -> Tensor:
    """Return the time in microseconds since 1970, by the clock of the device ([] int64)."""
    return tf.cast(tf.timestamp() * 1e6, tf.int64)


def _no_offer() -> Tensor:
    return tf.constant([_UNKNOWN] * len(Offer._fields), tf.int64)


def compared(before: Tensor, after: Tensor, offer: Tensor, state: Tensor, now: Tensor) -> Any:
    """Return the rows of contributions that ended, and the state with those that began.

    These operations become part of the gate's own function: to call another one took longer than
    all of them.
    """
    old, new = unpacked(before), unpacked(after)
    since = state[:-1]
    place, run, step, compute = tf.unstack(offer, 4)
    mine = tf.equal(tf.range(tf.size(since, tf.int64), dtype=tf.int64), place)
    waited = tf.equal(old.status, protocol.DELIVERED)
    delivered = tf.equal(new.status, protocol.DELIVERED) & ~waited
    ended = tf.stack([getattr(new, name) - getattr(old, name) for name in _ENDED])
    codes = tf.constant(list(_ENDED.values()), tf.int64)[:, None]
    verdict = tf.reduce_sum(ended * codes, axis=0)  # Each call ends at most one per place.
    duplicate = tf.equal(verdict, protocol.DUPLICATE)
    unknown = tf.fill(tf.shape(since), _UNKNOWN)
    rows = [
        verdict,
        tf.fill(tf.shape(since), now),
        tf.where(duplicate, _UNKNOWN, since),
        # Delivered contributions that are given up at the end of a run are stale.
        tf.where(mine, step, tf.where(waited, old.due - old.staleness, unknown)),
        tf.range(tf.size(since, tf.int64), dtype=tf.int64),
        old.holder,
        tf.where(delivered, new.due, unknown),
        tf.where(mine, compute, unknown),
        tf.where(mine, run, tf.fill(tf.shape(since), old.run)),
    ]
    changed = delivered | tf.reduce_any(ended > 0, axis=0)
    began = (new.begun > old.begun) & ~duplicate
    state = tf.concat([tf.where(began, now, since), state[-1:]], axis=0)
    return tf.boolean_mask(tf.stack(rows, axis=1), changed), state
