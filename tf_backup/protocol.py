"""The rules of synchronous SGD with backup workers, as pure functions on a ledger.

Who contributes to step t, what a verdict is, who is told to go on: every such decision is made
here and nowhere else. The functions only use operators and the two array functions of `Arrays`,
so that the gate runs them on TensorFlow tensors on a parameter server and the tests run the very
same lines on NumPy.

A worker's life in one run (a run is one epoch's training):

    ABSENT --enter--> COMPUTING --offer: accepted--> DELIVERED --advance--> COMPUTING
                       |  ^  |                                                  ^
                       |  +--+ stale: at once, with the step of the day         |
                       +------- late ----------------> WAITING -----advance-----+

A worker offers a gradient when it lies on every parameter server already. To be accepted is
hence to be delivered: nothing can be admitted and then not come, and no admission is ever
revoked.

Accounts: a contribution begins when its worker is told to work on a step, and ends as exactly
one of accepted, late, stale, duplicate or lost. Hence, for every worker at every moment,

    begun = accepted + late + stale + duplicate + lost + (1 if its contribution is under way).

*accepted* is counted when the update is made, not when the gate says yes, so that
accepted = N x updates also when training stops between the two.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 3 and 4. Differences:
one decision for all parameter servers, and at most one contribution per worker and step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any  # a numpy.ndarray or tf.Tensor; int64 unless said otherwise

# Worker states.
ABSENT, COMPUTING, DELIVERED, WAITING, LEFT = range(5)

# What a worker is to do next: a step (>= 0) to work on, or one of these.
WAIT, STOP = -1, -2

# Verdicts on an offered contribution.
ACCEPTED, LATE, STALE, DUPLICATE = range(4)


class Arrays(NamedTuple):
    """The two array functions that the rules need."""

    where: Callable[[Array, Array, Array], Array]
    sum: Callable[[Array], Array]


NUMPY = Arrays(where=np.where, sum=np.sum)


class Ledger(NamedTuple):
    """All that the gate knows. Scalars first, then one entry per worker."""

    run: Array  # [] counts the runs; a worker of an older run is sent home
    step: Array  # [] t, the updates made so far
    open: Array  # [] 1 while contributions to step t are wanted
    entries: Array  # [] how often a worker has entered; numbers them for all time
    status: Array  # [workers] ABSENT ... LEFT
    ticket: Array  # [workers] under which the delivered contribution lies
    begun: Array  # [workers] contributions ever begun ...
    accepted: Array  # [workers] ... and how they ended
    late: Array  # [workers]
    stale: Array  # [workers]
    duplicate: Array  # [workers]
    lost: Array  # [workers]


SCALARS = ("run", "step", "open", "entries")
VECTORS = ("status", "ticket", "begun", "accepted", "late", "stale", "duplicate", "lost")


def new_ledger(workers: int) -> Ledger:
    """Returns the ledger, in NumPy, of a gate that no worker has entered."""
    scalars = {name: np.int64(0) for name in SCALARS}
    vectors = {name: np.zeros([workers], np.int64) for name in VECTORS}
    return Ledger(**scalars, **vectors)


def enter(
    ledger: Ledger, me: Array, run: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """A worker starts its loop, for the first time or after it died and came back.

    What it had under way is lost, unless it was delivered already.

    Args:
      ledger: the state before.
      me: [workers] bool, true for the worker that enters.
      run: [] the run that it wants to work for.
      replicas: N.
      xp: the array functions.

    Returns:
      The state after, whose `entries` is a number that no other entry has, and what the worker
      is to do next.
    """
    mine = _at(ledger.status, me, xp)
    welcome = (run == ledger.run) & (ledger.open == 1)
    go = welcome & (mine != DELIVERED) & ~_full(ledger, replicas, xp)
    status = xp.where(welcome, np.int64(WAITING), np.int64(ABSENT))
    # What is delivered stays so, also when a loop of an older run is run again (TensorFlow does
    # that to a worker that comes back) and is sent home here.
    status = xp.where(mine == DELIVERED, np.int64(DELIVERED), status)
    status = xp.where(go, np.int64(COMPUTING), status)
    ledger = ledger._replace(
        entries=ledger.entries + 1,
        status=xp.where(me, status, ledger.status),
        begun=ledger.begun + _one(me & go, xp),
        lost=ledger.lost + _one(me & (mine == COMPUTING), xp),
    )
    then = xp.where(welcome, np.int64(WAIT), np.int64(STOP))
    return ledger, xp.where(go, ledger.step, then)


def offer(
    ledger: Ledger,
    me: Array,
    run: Array,
    step: Array,
    ticket: Array,
    replicas: int,
    xp: Arrays = NUMPY,
) -> tuple[Ledger, Array, Array, Array]:
    """A worker's gradient lies on every parameter server; is it one of the N of step t?

    Args:
      ledger: the state before.
      me: [workers] bool, true for the worker that offers.
      run: [] the run that it works for.
      step: [] the step that its gradient was computed at.
      ticket: [] under which its gradient lies.
      replicas: N.
      xp: the array functions.

    Returns:
      The state after, the verdict, what the worker is to do next, and whether this completed
      the step ([] bool): it is true exactly once per step.
    """
    mine = _at(ledger.status, me, xp)
    under_way = mine == COMPUTING
    welcome = (run == ledger.run) & (ledger.open == 1)
    current = welcome & (step == ledger.step)
    full = _full(ledger, replicas, xp)
    accept = under_way & current & ~full
    late = under_way & current & full
    stale = under_way & ~current
    # A contribution that the books know as ended (or never saw begin) is told a second time.
    # After the run there is nothing left to tell: it was counted when the books were closed.
    duplicate = ~under_way & welcome
    # A stale worker goes on at once with the step of the day, if that still wants gradients.
    again = stale & welcome & ~full
    waits = xp.where(mine == ABSENT, np.int64(WAITING), mine)
    status = xp.where(under_way, np.int64(WAITING), waits)
    status = xp.where(welcome | (mine == DELIVERED), status, np.int64(ABSENT))
    status = xp.where(again, np.int64(COMPUTING), status)
    status = xp.where(accept, np.int64(DELIVERED), status)
    ledger = ledger._replace(
        status=xp.where(me, status, ledger.status),
        ticket=xp.where(me & accept, ticket, ledger.ticket),
        begun=ledger.begun + _one(me & (again | duplicate), xp),
        late=ledger.late + _one(me & late, xp),
        stale=ledger.stale + _one(me & stale, xp),
        duplicate=ledger.duplicate + _one(me & duplicate, xp),
    )
    verdict = xp.where(duplicate, np.int64(DUPLICATE), np.int64(STALE))
    verdict = xp.where(late, np.int64(LATE), verdict)
    verdict = xp.where(accept, np.int64(ACCEPTED), verdict)
    then = xp.where(welcome, np.int64(WAIT), np.int64(STOP))
    then = xp.where(again, ledger.step, then)
    return ledger, verdict, then, accept & _full(ledger, replicas, xp)


def leave(
    ledger: Ledger, me: Array, run: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """A worker has no more data in this run; what it had begun it never computed.

    Returns:
      The state after, and whether fewer than N workers now have data, so that no further
      step can be completed ([] bool).
    """
    begun = me & (ledger.status == COMPUTING)
    status = xp.where(run == ledger.run, np.int64(LEFT), np.int64(ABSENT))
    ledger = ledger._replace(
        status=xp.where(me & (ledger.status != DELIVERED), status, ledger.status),
        begun=ledger.begun - _one(begun, xp),
    )
    return ledger, exhausted(ledger, replicas, xp)


def complete(ledger: Ledger, replicas: int, xp: Arrays = NUMPY) -> Array:
    """Returns whether step t has its N contributions and awaits its update ([] bool)."""
    return (ledger.open == 1) & _full(ledger, replicas, xp)


def exhausted(ledger: Ledger, replicas: int, xp: Arrays = NUMPY) -> Array:
    """Returns whether too few workers have data left to complete step t ([] bool)."""
    remaining = xp.sum(_one(ledger.status != LEFT, xp))
    return (remaining < replicas) & (ledger.open == 1)


def open_run(ledger: Ledger, step: Array, xp: Arrays = NUMPY) -> Ledger:
    """A new run begins at step t = `step`; the workers will enter one by one.

    Workers that still compute for the last run stay under way: their offer will be stale.
    """
    under_way = ledger.status == COMPUTING
    return ledger._replace(
        run=ledger.run + 1,
        step=step,
        open=ledger.open * 0 + 1,
        status=xp.where(under_way, np.int64(COMPUTING), np.int64(ABSENT)),
    )


def advance(ledger: Ledger, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """The update from step t is made and published: step t + 1 begins.

    Returns:
      The state after, and [workers] the token for each worker: t + 1, or WAIT for those who
      are not waiting for one.
    """
    ledger = _make_update(ledger, xp)
    idle = (ledger.status == DELIVERED) | (ledger.status == WAITING)
    ledger = ledger._replace(
        status=xp.where(idle, np.int64(COMPUTING), ledger.status),
        begun=ledger.begun + _one(idle, xp),
    )
    return ledger, xp.where(idle, ledger.step, np.int64(WAIT))


def close_run(ledger: Ledger, updated: bool, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """The run ends: after its last update (`updated`), or in the middle of step t.

    Gradients delivered to a step that will never be completed are stale. Workers that still
    compute find out when they offer.

    Returns:
      The state after, and [workers] the token for each worker: STOP, or WAIT for those who
      are not waiting for one.
    """
    if updated:
        ledger = _make_update(ledger, xp)
    delivered = ledger.status == DELIVERED
    idle = (delivered | (ledger.status == WAITING)) & (ledger.open == 1)
    in_vain = delivered & (not updated)
    under_way = ledger.status == COMPUTING
    ledger = ledger._replace(
        open=ledger.open * 0,
        stale=ledger.stale + _one(in_vain, xp),
        status=xp.where(under_way, np.int64(COMPUTING), np.int64(ABSENT)),
    )
    return ledger, xp.where(idle, np.int64(STOP), np.int64(WAIT))


def settle(ledger: Ledger, xp: Arrays = NUMPY) -> Ledger:
    """Closes the books: what is still under way will not come home, and is lost."""
    under_way = ledger.status == COMPUTING
    return ledger._replace(
        status=xp.where(under_way, np.int64(ABSENT), ledger.status),
        lost=ledger.lost + _one(under_way, xp),
    )


def _make_update(ledger: Ledger, xp: Arrays) -> Ledger:
    """Counts the delivered contributions as accepted and advances t by one."""
    return ledger._replace(
        step=ledger.step + 1,
        accepted=ledger.accepted + _one(ledger.status == DELIVERED, xp),
    )


def _full(ledger: Ledger, replicas: int, xp: Arrays) -> Array:
    """Returns whether step t has its N contributions ([] bool)."""
    return xp.sum(_one(ledger.status == DELIVERED, xp)) >= replicas


def _at(vector: Array, me: Array, xp: Arrays) -> Array:
    """Returns the entry of `vector` where the mask `me` is true (it is true once)."""
    return xp.sum(xp.where(me, vector, vector * 0))


def _one(mask: Array, xp: Arrays) -> Array:
    """Turns a boolean array into int64 zeros and ones."""
    return xp.where(mask, np.int64(1), np.int64(0))
