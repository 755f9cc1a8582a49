"""The rules for handing out data in small pieces, as pure functions on a ledger.

The data of an evaluation is split into lanes, one input pipeline each. A worker holds a lane and
computes one piece of it after another, about a second's worth at a time. The results of a piece
count when the piece is delivered. The lane's position then moves on, and a second delivery of the
same piece is ignored. So a worker that dies, freezes or is slow costs the repetition of one piece:
another worker takes over its lane where the last delivery ended.

Like `protocol`, this uses only operators and a few array functions, for both NumPy and TensorFlow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tf_backup.rules.protocol import NUMPY, Array, Arrays

# A worker's next action: a lane (>= 0) to read from, or one of these.
WAIT, STOP = -1, -2

PIECE_S = 1.0  # Target duration of a piece, which has at least one batch.
SLOW_S = 3.0  # After this, an idle worker may compute the same piece.


class Lanes(NamedTuple):
    """The ledger of an evaluation. Scalars first, then one element per lane."""

    run: Array  # [] number of evaluations so far; a worker of an older one is told to stop
    open: Array  # [] 1 until all lanes are done
    position: Array  # [lanes] number of batches whose results have been counted
    holder: Array  # [lanes] life of the worker that reads on from there; 0: none
    since: Array  # [lanes] time at which the holder started the current piece, in microseconds
    done: Array  # [lanes] 1 once the whole lane is counted


SCALARS, VECTORS = Lanes._fields[:2], Lanes._fields[2:]


class Piece(NamedTuple):
    """A piece of a lane that a worker has computed."""

    run: Array  # [] number of the evaluation
    lane: Array  # []
    start: Array  # [] number of batches before the piece
    batches: Array  # [] number of batches in the piece
    ended: Array  # [] bool, whether the lane ends with the piece


def new_lanes(lanes: int) -> Lanes:
    """Return the ledger before the first evaluation, in NumPy."""
    scalars = {name: np.int64(0) for name in SCALARS}
    vectors = {name: np.zeros([lanes], np.int64) for name in VECTORS}
    return Lanes(**scalars, **vectors)


def begin(lanes: Lanes) -> Lanes:
    """Start an evaluation."""
    zero = lanes.position * 0
    return Lanes(lanes.run + 1, lanes.open * 0 + 1, zero, zero, zero, zero)


def close(lanes: Lanes) -> Lanes:
    """End an evaluation."""
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
    """Give a worker a lane: its own, one without a holder, or one whose holder is slow.

    Args:
      lanes: the ledger before the call.
      indices: [lanes] 0, 1, 2 ...
      worker: [] the worker's index, so that each worker starts with a different lane.
      life: [] the number of its life.
      run: [] the evaluation that it works on.
      now: [] the current time in microseconds.
      xp: the array functions.

    Returns:
      The ledger after the call, the lane (or WAIT or STOP), and the number of its batches to skip.
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
    """Deliver a piece that a worker has computed.

    Returns:
      The ledger after the call, whether the piece counts ([] bool), and whether it was the last
      missing one, which ends the evaluation ([] bool).
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
    """Free the lanes whose holders are `gone` ([lanes] bool), so that others can take them."""
    return lanes._replace(holder=xp.where(gone, np.int64(0), lanes.holder))
