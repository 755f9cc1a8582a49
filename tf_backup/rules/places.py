"""The rules of places: which worker may work at which place, as pure functions on the ledger.

There are N + b places. The first N + b workers take them, and each reads the part of the data that
belongs to its place. A later worker is a spare: it waits until a place becomes free and then takes
it. If spares worked too, more than b gradients of each step would be discarded. See `protocol` for
what happens at a place.
"""

from __future__ import annotations

import numpy as np

from tf_backup.rules.protocol import (
    ABSENT,
    COMPUTING,
    DELIVERED,
    EXPELLED,
    LEFT,
    NO_PLACE,
    NUMPY,
    STOP,
    WAIT,
    WAITING,
    Array,
    Arrays,
    Ledger,
    at,
    full,
    one,
)


def admit(
    ledger: Ledger, places: Array, worker: Array, life: Array, run: Array, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """Give a worker a place: that of its earlier life, of its own index, or the first free one.

    Args:
      ledger: the ledger before the call.
      places: [places] 0, 1, 2 ...
      worker: [] the worker's index in the cluster.
      life: [] the unique number of the worker's life, above 0.
      run: [] the run that it wants to work in.
      xp: the array functions.

    Returns:
      The ledger after the call, and the place: NO_PLACE if none is free, STOP if the run is over.
    """
    none = np.int64(2**62)
    free = ledger.life == 0
    rank = xp.where(free, places, places * 0 + none)
    rank = xp.where(free & (places == worker), np.int64(-1), rank)
    rank = xp.where(~free & (ledger.holder == worker), np.int64(-2), rank)
    best = xp.min(rank)
    welcome = (run == ledger.run) & (ledger.open == 1)
    me = (rank == best) & (best < none) & welcome
    ledger = ledger._replace(
        holder=xp.where(me, worker, ledger.holder), life=xp.where(me, life, ledger.life)
    )
    place = xp.where(best < none, xp.sum(xp.where(me, places, places * 0)), np.int64(NO_PLACE))
    return ledger, xp.where(welcome, place, np.int64(STOP))


def enter(
    ledger: Ledger, me: Array, life: Array, run: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """Start a worker's loop at its place, for the first time in a run or again.

    A contribution that was under way there is lost, unless it was already delivered. One that was
    delivered counts towards the quota of the place.

    Args:
      ledger: the ledger before the call.
      me: [places] bool, true for the worker's place.
      life: [] the number of the worker's life.
      run: [] the run that it wants to work in.
      replicas: N.
      xp: the array functions.

    Returns:
      The ledger after the call, whose `entries` is the number of this entry, and the worker's next
      action.
    """
    mine = at(ledger.status, me, xp)
    current = (run == ledger.run) & (ledger.open == 1)
    my_place = at(ledger.life, me, xp) == life
    me = me & my_place
    welcome = current & my_place
    room = at(ledger.queued, me, xp) < ledger.quota
    go = welcome & room & ~full(ledger, replicas, xp)
    status = xp.where(welcome, np.int64(WAITING), np.int64(ABSENT))
    # A delivered contribution stays delivered.
    status = xp.where(mine == DELIVERED, np.int64(DELIVERED), status)
    status = xp.where(go, np.int64(COMPUTING), status)
    ledger = ledger._replace(
        entries=ledger.entries + 1,
        entry=xp.where(me, ledger.entries + 1, ledger.entry),
        status=xp.where(me, status, ledger.status),
        begun=ledger.begun + one(me & go, xp),
        lost=ledger.lost + one(me & (mine == COMPUTING), xp),
    )
    then = xp.where(my_place, np.int64(WAIT), np.int64(EXPELLED))
    then = xp.where(current, then, np.int64(STOP))
    return ledger, xp.where(go, ledger.step, then)


def expire(ledger: Ledger, gone: Array, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """End the entries of workers whose leases have ended or that have been restarted.

    Contributions already delivered are still used. A place without more data in this run stays as
    it is.

    Args:
      ledger: the ledger before the call.
      gone: [places] bool, true where the holder is gone.
      xp: the array functions.

    Returns:
      The ledger after the call, and [places] the token for each place: EXPELLED if its holder was
      waiting for one, so that a worker that was only frozen finds out, else WAIT.
    """
    under_way = gone & (ledger.status == COMPUTING)
    idle = gone & (ledger.status == WAITING)
    ends = gone & (ledger.status != DELIVERED) & (ledger.status != LEFT)
    ledger = ledger._replace(
        life=xp.where(ends, np.int64(0), ledger.life),
        entry=xp.where(ends, np.int64(0), ledger.entry),
        status=xp.where(ends, np.int64(ABSENT), ledger.status),
        lost=ledger.lost + one(under_way, xp),
    )
    return ledger, xp.where(idle, np.int64(EXPELLED), np.int64(WAIT))
