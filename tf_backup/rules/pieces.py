"""The rules of handing out data in small pieces, as pure functions on a ledger.

The data of an evaluation come in lanes, one input pipeline each. A worker holds a lane and computes
piece after piece of it, about a second's worth at a time. What a piece comes to counts when it is
delivered; the lane has moved on by then, and whoever delivers the same piece later delivers it in
vain. So a worker that dies, freezes or is slow costs the repetition of one piece: another one takes
its lane over where the last delivery ended.

Like `protocol`, with operators and a few array functions only, for NumPy and TensorFlow alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tf_backup.rules.protocol import NUMPY, Array, Arrays

# What a worker is to do next: a lane (>= 0) to read from, or one of these.
WAIT, STOP = -1, -2

PIECE_S = 1.0  # How long a piece takes a worker, one batch at least.
SLOW_S = 3.0  # Of a piece that takes longer, a worker without work makes another one.


class Lanes(NamedTuple):
    """How far each lane has been read. Scalars first, then one element per lane."""

    run: Array  # [] counts the evaluations; a worker of an older one is sent home
    open: Array  # [] 1 until all lanes are done
    position: Array  # [lanes] batches whose results have been counted
    holder: Array  # [lanes] number of the life of the worker that reads on from there; 0: nobody
    since: Array  # [lanes] when it began with the piece at hand, in microseconds
    done: Array  # [lanes] 1 once all is read


SCALARS, VECTORS = Lanes._fields[:2], Lanes._fields[2:]


class Piece(NamedTuple):
    """A piece of a lane that a worker has computed."""

    run: Array  # [] the evaluation that it is for
    lane: Array  # []
    start: Array  # [] the number of batches before it
    batches: Array  # [] how many it has
    ended: Array  # [] bool, whether there are none behind it


def new_lanes(lanes: int) -> Lanes:
    """Returns the ledger, in NumPy, before the first evaluation."""
    scalars = {name: np.int64(0) for name in SCALARS}
    vectors = {name: np.zeros([lanes], np.int64) for name in VECTORS}
    return Lanes(**scalars, **vectors)


def begin(lanes: Lanes) -> Lanes:
    """An evaluation begins."""
    zero = lanes.position * 0
    return Lanes(lanes.run + 1, lanes.open * 0 + 1, zero, zero, zero, zero)


def close(lanes: Lanes) -> Lanes:
    """An evaluation is over."""
    return lanes._replace(open=lanes.open * 0)


def choose(
    lanes: Lanes,
    indices: Array,
    worker: Array,
    life: Array,
    run: Array,
    now: Array,
    xp: Arrays = NUMPY,
) -> tuple[Lanes, Array, Array]:
    """Gives a worker a lane: its own, one that nobody holds, or one whose holder is slow.

    Args:
      lanes: the state before.
      indices: [lanes] 0, 1, 2 ...
      worker: [] the worker's index; so each begins with another lane.
      life: [] the number of its life.
      run: [] the evaluation that it works for.
      now: [] the time in microseconds.
      xp: the array functions.

    Returns:
      The state after, the lane (or WAIT or STOP), and the batches of it to leave out.
    """
    none, count = np.int64(2**62), lanes.position.shape[0]
    todo = lanes.done == 0
    turn = (indices - worker) % count
    slow = now - lanes.since > int(SLOW_S * 1e6)
    rank = xp.where(todo & slow, count + turn, turn * 0 + none)
    rank = xp.where(todo & (lanes.holder == 0), turn, rank)
    rank = xp.where(todo & (lanes.holder == life), np.int64(-1), rank)
    best = xp.min(rank)
    welcome = (run == lanes.run) & (lanes.open == 1)
    mine = (rank == best) & (best < none) & welcome
    lanes = lanes._replace(
        holder=xp.where(mine, life, lanes.holder), since=xp.where(mine, now, lanes.since)
    )
    zero = indices * 0
    lane = xp.where(best < none, xp.sum(xp.where(mine, indices, zero)), np.int64(WAIT))
    return (
        lanes,
        xp.where(welcome, lane, np.int64(STOP)),
        xp.sum(xp.where(mine, lanes.position, zero)),
    )


def deliver(
    lanes: Lanes, indices: Array, piece: Piece, xp: Arrays = NUMPY
) -> tuple[Lanes, Array, Array]:
    """A worker has computed a piece.

    Returns:
      The state after, whether the piece counts ([] bool), and whether it was the last that was
      missing ([] bool): then the evaluation is over.
    """
    here = (indices == piece.lane) & (lanes.position == piece.start) & (lanes.done == 0)
    here = here & (piece.run == lanes.run) & (lanes.open == 1)
    counts = xp.sum(xp.where(here, indices * 0 + 1, indices * 0)) > 0
    done = xp.where(here & piece.ended, np.int64(1), lanes.done)
    over = counts & (xp.sum(1 - done) == 0)
    lanes = lanes._replace(
        position=xp.where(here, piece.start + piece.batches, lanes.position),
        done=done,
        open=xp.where(over, np.int64(0), lanes.open),
    )
    return lanes, counts, over


def expire(lanes: Lanes, gone: Array, xp: Arrays = NUMPY) -> Lanes:
    """The holders of some lanes are gone ([lanes] bool): others may go on with them."""
    return lanes._replace(holder=xp.where(gone, np.int64(0), lanes.holder))
