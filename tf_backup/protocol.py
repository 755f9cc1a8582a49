"""The rules of synchronous SGD with backup workers, as pure functions on a ledger.

Who may contribute to step t, what a verdict is, who is told to go on: every such decision is
made here and nowhere else. The functions only use operators and the two array functions of
`Arrays`, so that the gate runs them on TensorFlow tensors on a parameter server and the tests
run the very same lines on NumPy.

A worker's life in one run (a run is one epoch's training):

    ABSENT --enter--> COMPUTING --offer--> ADMITTED --deliver--> DELIVERED --advance--> COMPUTING
                          |   ^                |                                            ^
                          |   | stale          | revoke, enter: the worker died (lost)      |
                          |   +---             v                                            |
                          +--offer: late--> WAITING ----------------advance-----------------+

Accounts: a contribution begins when its worker is told to work on a step, and ends as exactly
one of accepted, late, stale, duplicate or lost. Hence, for every worker at every moment,

    begun = accepted + late + stale + duplicate + lost + (1 if its contribution is under way).

*accepted* is counted when the update is made, not when admission is granted, so that
accepted = N x updates also when training stops between the two.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 3 and 4. Differences:
one decision for all parameter servers, at most one contribution per worker and step, and a
late worker is told so before it sends its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any  # a numpy.ndarray or tf.Tensor; int64 unless said otherwise

# Worker states.
ABSENT, COMPUTING, ADMITTED, DELIVERED, WAITING, LEFT = range(6)

# What a worker is to do next: a step (>= 0) to work on, or one of these.
WAIT, STOP = -1, -2

# Verdicts on an offered contribution.
ACCEPTED, LATE, STALE, DUPLICATE = range(4)

# No admission.
NO_TICKET = -1


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
    tickets: Array  # [] admissions granted so far; numbers them for all time
    status: Array  # [workers] ABSENT ... LEFT
    ticket: Array  # [workers] of the last admission
    begun: Array  # [workers] contributions ever begun ...
    accepted: Array  # [workers] ... and how they ended
    late: Array  # [workers]
    stale: Array  # [workers]
    duplicate: Array  # [workers]
    lost: Array  # [workers]


SCALARS = ("run", "step", "open", "tickets")
VECTORS = ("status", "ticket", "begun", "accepted", "late", "stale", "duplicate", "lost")


def new_ledger(workers: int) -> Ledger:
    """Returns the ledger, in NumPy, of a gate that no worker has entered."""
    scalars = {name: np.int64(0) for name in SCALARS}
    vectors = {name: np.zeros([workers], np.int64) for name in VECTORS}
    return Ledger(**scalars, **vectors)


def _one(mask: Array, xp: Arrays) -> Array:
    """Turns a boolean array into int64 zeros and ones."""
    return xp.where(mask, np.int64(1), np.int64(0))


def _taken(ledger: Ledger, xp: Arrays) -> Array:
    """Returns how many places of step t are taken."""
    taken = (ledger.status == ADMITTED) | (ledger.status == DELIVERED)
    return xp.sum(_one(taken, xp))


def _at(vector: Array, me: Array, xp: Arrays) -> Array:
    """Returns the entry of `vector` where the mask `me` is true (it is true once)."""
    return xp.sum(xp.where(me, vector, vector * 0))


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
      The state after, and what the worker is to do next.
    """
    mine = _at(ledger.status, me, xp)
    lost = (mine == COMPUTING) | (mine == ADMITTED)
    # An admission lost here frees its place, for this very worker if need be.
    taken = _taken(ledger, xp) - _one(mine == ADMITTED, xp)
    welcome = (run == ledger.run) & (ledger.open == 1)
    go = welcome & (mine != DELIVERED) & (taken < replicas)
    stay = xp.where(mine == DELIVERED, np.int64(DELIVERED), np.int64(WAITING))
    status = xp.where(go, np.int64(COMPUTING), xp.where(welcome, stay, np.int64(ABSENT)))
    ledger = ledger._replace(
        status=xp.where(me, status, ledger.status),
        begun=ledger.begun + _one(me & go, xp),
        lost=ledger.lost + _one(me & lost, xp),
    )
    then = xp.where(welcome, np.int64(WAIT), np.int64(STOP))
    return ledger, xp.where(go, ledger.step, then)


def offer(
    ledger: Ledger, me: Array, run: Array, step: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array, Array, Array]:
    """A worker has computed a gradient at theta(step) and asks whether it is wanted.

    Args:
      ledger: the state before.
      me: [workers] bool, true for the worker that offers.
      run: [] the run that it works for.
      step: [] the step that its gradient was computed at.
      replicas: N.
      xp: the array functions.

    Returns:
      The state after, the verdict, the ticket to deliver with (NO_TICKET unless accepted) and
      what to do next (after delivery, if accepted).
    """
    mine = _at(ledger.status, me, xp)
    under_way = mine == COMPUTING
    welcome = (run == ledger.run) & (ledger.open == 1)
    current = welcome & (step == ledger.step)
    full = _taken(ledger, xp) >= replicas
    admit = under_way & current & ~full
    late = under_way & current & full
    stale = under_way & ~current
    # A contribution that the books know as ended (or never saw begin) is told a second time.
    # After the run there is nothing left to tell: it was counted when the books were closed.
    duplicate = ~under_way & welcome
    # A stale worker goes on at once with the step of the day, if that still wants gradients.
    again = stale & welcome & ~full
    waits = xp.where(mine == ABSENT, np.int64(WAITING), mine)
    status = xp.where(under_way, np.int64(WAITING), waits)
    status = xp.where(welcome, status, np.int64(ABSENT))
    status = xp.where(again, np.int64(COMPUTING), status)
    status = xp.where(admit, np.int64(ADMITTED), status)
    ledger = ledger._replace(
        status=xp.where(me, status, ledger.status),
        ticket=xp.where(me & admit, ledger.tickets, ledger.ticket),
        tickets=ledger.tickets + _one(admit, xp),
        begun=ledger.begun + _one(me & (again | duplicate), xp),
        late=ledger.late + _one(me & late, xp),
        stale=ledger.stale + _one(me & stale, xp),
        duplicate=ledger.duplicate + _one(me & duplicate, xp),
    )
    verdict = xp.where(duplicate, np.int64(DUPLICATE), np.int64(STALE))
    verdict = xp.where(late, np.int64(LATE), verdict)
    verdict = xp.where(admit, np.int64(ACCEPTED), verdict)
    ticket = xp.where(admit, ledger.tickets - 1, np.int64(NO_TICKET))
    then = xp.where(welcome, np.int64(WAIT), np.int64(STOP))
    return ledger, verdict, ticket, xp.where(again, ledger.step, then)


def deliver(
    ledger: Ledger, me: Array, run: Array, ticket: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array, Array]:
    """A worker's gradient has arrived on every parameter server.

    A revoked worker was slow, not dead: its contribution is counted as lost already, and it
    goes on as if it had just come in.

    Args:
      ledger: the state before.
      me: [workers] bool, true for the worker that delivers.
      run: [] the run that it works for.
      ticket: [] that its gradient lies under.
      replicas: N.
      xp: the array functions.

    Returns:
      The state after, what the worker is to do next, and whether this completed the step
      ([] bool): it is true exactly once per step.
    """
    mine = _at(ledger.status, me, xp)
    welcome = (run == ledger.run) & (ledger.open == 1)
    valid = welcome & (mine == ADMITTED) & (_at(ledger.ticket, me, xp) == ticket)
    revoked = welcome & (mine == ABSENT)
    again = revoked & (_taken(ledger, xp) < replicas)
    status = xp.where(revoked, np.int64(WAITING), mine)
    status = xp.where(again, np.int64(COMPUTING), status)
    status = xp.where(valid, np.int64(DELIVERED), status)
    ledger = ledger._replace(
        status=xp.where(me, status, ledger.status), begun=ledger.begun + _one(me & again, xp)
    )
    delivered = xp.sum(_one(ledger.status == DELIVERED, xp))
    then = xp.where(welcome, np.int64(WAIT), np.int64(STOP))
    return ledger, xp.where(again, ledger.step, then), valid & (delivered == replicas)


def leave(ledger: Ledger, me: Array, run: Array, replicas: int, xp: Arrays = NUMPY) -> tuple[
    Ledger, Array
]:
    """A worker has no more data in this run; what it had begun it never computed.

    Returns:
      The state after, and whether fewer than N workers now have data, so that no further
      step can be completed ([] bool).
    """
    begun = me & (ledger.status == COMPUTING)
    status = xp.where(run == ledger.run, np.int64(LEFT), np.int64(ABSENT))
    ledger = ledger._replace(
        status=xp.where(me, status, ledger.status), begun=ledger.begun - _one(begun, xp)
    )
    return ledger, exhausted(ledger, replicas, xp)


def exhausted(ledger: Ledger, replicas: int, xp: Arrays = NUMPY) -> Array:
    """Returns whether too few workers have data left to complete step t ([] bool).

    A worker that delivered to step t may since have died and come back to an empty data set,
    but then its place in step t stands: only those that left without one are missing.
    """
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
    return _release(ledger, idle, xp)


def close_run(ledger: Ledger, updated: bool, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """The run ends: after its last update (`updated`), or in the middle of step t.

    Gradients admitted to a step that will never be completed are stale. Workers that still
    compute find out when they offer.

    Returns:
      The state after, and [workers] the token for each worker: STOP, or WAIT for those who
      are not waiting for one.
    """
    if updated:
        ledger = _make_update(ledger, xp)
    idle = (ledger.status == DELIVERED) | (ledger.status == WAITING)
    ended = (ledger.status == ADMITTED) | ((ledger.status == DELIVERED) & (not updated))
    tokens = xp.where(idle & (ledger.open == 1), np.int64(STOP), np.int64(WAIT))
    computing = ledger.status == COMPUTING
    ledger = ledger._replace(
        open=ledger.open * 0,
        stale=ledger.stale + _one(ended, xp),
        status=xp.where(computing, np.int64(COMPUTING), np.int64(ABSENT)),
    )
    return ledger, tokens


def revoke(
    ledger: Ledger, who: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """Takes the admission to step t from workers that died before they delivered.

    The freed places go to whoever offers next; since all others may be waiting already, the
    waiting ones are told to work on step t once more.

    Args:
      ledger: the state before.
      who: [workers] bool, the workers that are not expected to deliver.
      replicas: N.
      xp: the array functions.

    Returns:
      The state after, and [workers] the token for each worker: t, or WAIT.
    """
    revoked = who & (ledger.status == ADMITTED) & (ledger.open == 1)
    ledger = ledger._replace(
        status=xp.where(revoked, np.int64(ABSENT), ledger.status),
        lost=ledger.lost + _one(revoked, xp),
    )
    needed = (_taken(ledger, xp) < replicas) & (ledger.open == 1)
    return _release(ledger, (ledger.status == WAITING) & needed, xp)


def settle(ledger: Ledger, xp: Arrays = NUMPY) -> Ledger:
    """Closes the books: what is still under way will not come home, and is lost."""
    under_way = (ledger.status == COMPUTING) | (ledger.status == ADMITTED)
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


def _release(ledger: Ledger, who: Array, xp: Arrays) -> tuple[Ledger, Array]:
    """Tells the workers in the mask `who` to work on step t."""
    ledger = ledger._replace(
        status=xp.where(who, np.int64(COMPUTING), ledger.status),
        begun=ledger.begun + _one(who, xp),
    )
    return ledger, xp.where(who, ledger.step, np.int64(WAIT))
