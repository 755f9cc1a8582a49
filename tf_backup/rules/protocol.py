"""The rules of SGD with backup workers, synchronous or not, as pure functions on a ledger.

Who contributes to step t, what a verdict is, who is told to go on: all that is decided here and
nowhere else, with operators and the two array functions of `Arrays` only, so that the gate does
it with tensors on a parameter server, and the tests run the very same lines on NumPy.

There are N + b places. A worker process is admitted to one, and enters it once for each run that
it works in (a run is one epoch's training): see `places`. What happens at a place in one run:

    ABSENT --enter--> COMPUTING --offer: accepted--> DELIVERED --advance, when used--> COMPUTING
                       |  ^  |                                                            ^
                       |  +--+ stale, and step t has room: at once, with the current step |
                       |                                                                  |
                       +------- late, or stale while t is full ---> WAITING ----advance---+

A place belongs to one life of a worker, and everything that the worker sends names its entry.
When its lease ends, so does the entry: what it had under way is lost, and what it sends afterwards,
should it have been frozen only, is refused.

A worker offers a gradient when it lies on every parameter server already. To be accepted is
hence to be delivered: nothing can be admitted and then not come, and no admission is ever
revoked.

What is delivered waits in a queue, first come, first used; an update takes exactly N. With p in
it, a newcomer is *due* at step t + p // N, so its *staleness*, how many updates old it is when it
is used, is known when it is offered. It is accepted if that is at most `max_staleness`: 0 is
synchronous SGD; N = 1 without a bound is asynchronous SGD. A worker waits until its own gradient
is used: the queue holds at most one of each, and N different workers make an update.

Accounts: a contribution begins when its worker is told to work on a step, and ends as exactly
one of accepted, late, stale, duplicate or lost. Hence, for every worker at every moment,

    begun = accepted + late + stale + duplicate + lost + (1 if its contribution is under way).

*accepted* is counted when the update is made, not when the gate says yes: accepted = N x updates
also when training stops between the two.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 1 to 4; but with one
decision for all parameter servers, and at most one contribution per worker and step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any  # a numpy.ndarray or tf.Tensor; int64 unless said otherwise

# The state of a place.
ABSENT, COMPUTING, DELIVERED, WAITING, LEFT = range(5)

# What a worker is to do next: a step (>= 0) to work on, or one of these. EXPELLED: its lease has
# ended, or its place was taken by a later life; it may ask for a place again.
WAIT, STOP, EXPELLED = -1, -2, -3

NO_PLACE = -1  # All places are taken: the worker is a spare one for now.

# Verdicts on an offered contribution.
ACCEPTED, LATE, STALE, DUPLICATE = range(4)

ANY_STALENESS = 2**62  # A bound that is none.


class Arrays(NamedTuple):
    """The array functions that the rules need."""

    where: Callable[[Array, Array, Array], Array]
    sum: Callable[[Array], Array]
    min: Callable[[Array], Array]


NUMPY = Arrays(where=np.where, sum=np.sum, min=np.min)


class Ledger(NamedTuple):
    """All that the gate knows. Scalars first, then one element per place."""

    run: Array  # [] counts the runs; a worker of an older run is sent home
    step: Array  # [] t, the updates made so far
    open: Array  # [] 1 while contributions are wanted
    entries: Array  # [] how often a worker has entered; numbers them for all time
    holder: Array  # [places] index of the worker whose place it is ...
    life: Array  # [places] ... and the number of that worker's life; 0: nobody's
    entry: Array  # [places] the number of its holder's entry; 0: none, or it has ended
    status: Array  # [places] ABSENT ... LEFT
    ticket: Array  # [places] under which the delivered contribution lies ...
    due: Array  # [places] ... the step that it is for ...
    staleness: Array  # [places] ... and how many updates old it is then
    begun: Array  # [places] contributions ever begun ...
    accepted: Array  # [places] ... and how they ended
    late: Array  # [places]
    stale: Array  # [places]
    duplicate: Array  # [places]
    lost: Array  # [places]


SCALARS, VECTORS = Ledger._fields[:4], Ledger._fields[4:]


def new_ledger(places: int) -> Ledger:
    """Returns the ledger, in NumPy, of a gate that no worker has entered."""
    scalars = {name: np.int64(0) for name in SCALARS}
    vectors = {name: np.zeros([places], np.int64) for name in VECTORS}
    return Ledger(**scalars, **vectors)


def offer(
    ledger: Ledger,
    me: Array,
    entry: Array,
    run: Array,
    step: Array,
    ticket: Array,
    replicas: int,
    max_staleness: int = 0,
    xp: Arrays = NUMPY,
) -> tuple[Ledger, Array, Array, Array]:
    """A worker's gradient lies on every parameter server; will it be part of an update?

    Args:
      ledger: the state before.
      me: [places] bool, true for the place of the worker that offers.
      entry: [] the number of its entry.
      run: [] the run that it works for.
      step: [] the step that its gradient was computed at.
      ticket: [] under which its gradient lies.
      replicas: N.
      max_staleness: how many updates old it may be when it is used, or ANY_STALENESS.
      xp: the array functions.

    Returns:
      The state after, the verdict, what the worker is to do next, and whether this completed
      the step ([] bool): it is true exactly once per step.
    """
    mine = at(ledger.status, me, xp)
    valid = at(ledger.entry, me, xp) == entry
    under_way = valid & (mine == COMPUTING)
    welcome = (run == ledger.run) & (ledger.open == 1)
    queued = inside(ledger, xp)
    due = ledger.step + queued // replicas
    wanted = welcome & (due - step <= max_staleness)
    current = welcome & (step == ledger.step)
    accept = under_way & wanted
    late = under_way & current & ~wanted
    stale = under_way & ~current & ~wanted
    # What the accounts know as ended (or never saw begin) is told a second time: so is the gradient
    # of a worker whose lease has ended, which counts as lost already. After the run there is
    # nothing left to tell: it was counted when the accounts were closed.
    duplicate = ~under_way & welcome
    # A stale worker goes on at once with the current step, if that still wants gradients;
    # if not, an update is about to be made.
    again = stale & welcome & (queued < replicas)
    waits = xp.where(mine == ABSENT, np.int64(WAITING), mine)
    status = xp.where(under_way, np.int64(WAITING), waits)
    status = xp.where(welcome | (mine == DELIVERED), status, np.int64(ABSENT))
    status = xp.where(valid, status, mine)  # Of an entry that has ended, nothing changes.
    status = xp.where(again, np.int64(COMPUTING), status)
    status = xp.where(accept, np.int64(DELIVERED), status)
    ledger = ledger._replace(
        status=xp.where(me, status, ledger.status),
        ticket=xp.where(me & accept, ticket, ledger.ticket),
        due=xp.where(me & accept, due, ledger.due),
        staleness=xp.where(me & accept, due - step, ledger.staleness),
        begun=ledger.begun + one(me & (again | duplicate), xp),
        late=ledger.late + one(me & late, xp),
        stale=ledger.stale + one(me & stale, xp),
        duplicate=ledger.duplicate + one(me & duplicate, xp),
    )
    verdict = xp.where(duplicate, np.int64(DUPLICATE), np.int64(STALE))
    verdict = xp.where(late, np.int64(LATE), verdict)
    verdict = xp.where(accept, np.int64(ACCEPTED), verdict)
    then = xp.where(valid, np.int64(WAIT), np.int64(EXPELLED))
    then = xp.where(welcome, then, np.int64(STOP))
    then = xp.where(again, ledger.step, then)
    return ledger, verdict, then, accept & (queued + 1 == replicas)


def leave(
    ledger: Ledger, me: Array, entry: Array, run: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """A worker has no more data in this run; what it had begun it never computed.

    Returns:
      The state after, and whether too few places have data now to complete a step ([] bool).
    """
    me = me & (ledger.entry == entry)
    begun = me & (ledger.status == COMPUTING)
    status = xp.where(run == ledger.run, np.int64(LEFT), np.int64(ABSENT))
    ledger = ledger._replace(
        status=xp.where(me & (ledger.status != DELIVERED), status, ledger.status),
        begun=ledger.begun - one(begun, xp),
    )
    return ledger, exhausted(ledger, replicas, xp)


def complete(ledger: Ledger, replicas: int, xp: Arrays = NUMPY) -> Array:
    """Returns whether step t has its N contributions and awaits its update ([] bool)."""
    return (ledger.open == 1) & full(ledger, replicas, xp)


def used(ledger: Ledger) -> Array:
    """Returns whose contributions the update from step t takes ([places] bool)."""
    return (ledger.status == DELIVERED) & (ledger.due == ledger.step)


def exhausted(ledger: Ledger, replicas: int, xp: Arrays = NUMPY) -> Array:
    """Returns whether too few places have data left to complete step t ([] bool)."""
    remaining = xp.sum(one(ledger.status != LEFT, xp))
    return (remaining < replicas) & (ledger.open == 1)


def open_run(ledger: Ledger, step: Array, xp: Arrays = NUMPY) -> Ledger:
    """A new run begins at step t = `step`; the workers will enter one by one.

    Who still computes for the last run stays under way: the offer will be stale.
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

    Gradients that are due later stay in the queue, and may complete it already.

    Returns:
      The state after, and [places] the token for each worker: t + 1, or WAIT for who computes,
      or has a gradient in the queue.
    """
    idle = used(ledger) | (ledger.status == WAITING)
    ledger = _make_update(ledger, xp)
    ledger = ledger._replace(
        status=xp.where(idle, np.int64(COMPUTING), ledger.status),
        begun=ledger.begun + one(idle, xp),
    )
    return ledger, xp.where(idle, ledger.step, np.int64(WAIT))


def close_run(ledger: Ledger, updated: bool, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """The run ends: after its last update (`updated`), or in the middle of step t.

    Gradients delivered to steps that will never be completed are stale. Workers that still
    compute find out when they offer.

    Returns:
      The state after, and [places] the token for each worker: STOP, or WAIT for those who
      are not waiting for one.
    """
    delivered = ledger.status == DELIVERED
    in_vain = delivered & ~(used(ledger) & updated)
    if updated:
        ledger = _make_update(ledger, xp)
    idle = (delivered | (ledger.status == WAITING)) & (ledger.open == 1)
    under_way = ledger.status == COMPUTING
    ledger = ledger._replace(
        open=ledger.open * 0,
        stale=ledger.stale + one(in_vain, xp),
        status=xp.where(under_way, np.int64(COMPUTING), np.int64(ABSENT)),
    )
    return ledger, xp.where(idle, np.int64(STOP), np.int64(WAIT))


def settle(ledger: Ledger, xp: Arrays = NUMPY) -> Ledger:
    """Closes the accounts: what is still under way will not come home, and is lost."""
    under_way = ledger.status == COMPUTING
    return ledger._replace(
        status=xp.where(under_way, np.int64(ABSENT), ledger.status),
        lost=ledger.lost + one(under_way, xp),
    )


def _make_update(ledger: Ledger, xp: Arrays) -> Ledger:
    """Counts the contributions that are used as accepted and advances t by one."""
    return ledger._replace(
        step=ledger.step + 1,
        accepted=ledger.accepted + one(used(ledger), xp),
    )


def full(ledger: Ledger, replicas: int, xp: Arrays) -> Array:
    """Returns whether step t has its N contributions ([] bool)."""
    return inside(ledger, xp) >= replicas


def inside(ledger: Ledger, xp: Arrays) -> Array:
    """Returns how many contributions wait to be used ([])."""
    return xp.sum(one(ledger.status == DELIVERED, xp))


def at(vector: Array, me: Array, xp: Arrays) -> Array:
    """Returns the entry of `vector` where the mask `me` is true (it is true once)."""
    return xp.sum(xp.where(me, vector, vector * 0))


def one(mask: Array, xp: Arrays) -> Array:
    """Turns a boolean array into int64 zeros and ones."""
    return xp.where(mask, np.int64(1), np.int64(0))
