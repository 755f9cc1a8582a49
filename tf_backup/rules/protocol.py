"""The rules of SGD with backup workers, synchronous or not, as pure functions on a ledger.

All decisions are made here: which workers contribute to step t, what the verdicts are, and which
workers continue. The rules use only operators and `Arrays`, so the gate runs them on tensors on a
parameter server, and the tests run the same lines on NumPy arrays.

There are N + b places. A worker process is admitted to one, and enters it once for each run that
it works in (usually an epoch): see `places`. The states of a place in one run:

    ABSENT --enter--> COMPUTING --offer: accepted--> DELIVERED --advance, when used--> COMPUTING
                       |  ^  |                                                            ^
                       |  +--+ stale, and step t has room: at once, with the current step |
                       |                                                                  |
                       +------- late, or stale while t is full ---> WAITING ----advance---+

A place belongs to one life of a worker, and all that the worker sends names its entry. When its
lease ends, the entry ends too: its contribution under way is lost, and what it sends later refused.

A worker offers a gradient only when all of it is on the parameter servers. So an accepted gradient
is already delivered: it cannot fail to arrive, and an acceptance is never revoked.

Delivered contributions wait in a first-in, first-out queue, and an update takes exactly N of them.
With p contributions in the queue, a new one is *due* at step t + p // N. So its *staleness*, the
number of updates made between its parameters and the update that uses it, is known when it is
offered. It is accepted if its staleness is at most `max_staleness`: 0 is synchronous SGD, and N = 1
without a bound is asynchronous SGD. A worker waits until its own gradient is used, so the queue
holds at most one from each worker, and an update uses gradients of N different workers. Policies
may allow exceptions while workers are missing: see `shortage`.

A gradient with NaN or Inf is not delivered, and its worker continues like one that is stale.

Counts: a contribution begins when its worker is told to work on a step, and ends as exactly one of
accepted, late, stale, duplicate, lost or nonfinite. Hence, for every worker at every moment,

    begun = accepted + late + stale + duplicate + lost + nonfinite
            + (1 if it is COMPUTING) + (its contributions in the queue).

*accepted* is counted when the update is made, not when the gate accepts the gradient. So
accepted = N x updates also holds when training stops between the two.

Reference: Chen et al., Revisiting Distributed Synchronous SGD, algorithms 1 to 4. Unlike there, one
decision holds for all parameter servers, and each worker contributes at most once to a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any  # a numpy.ndarray or tf.Tensor; int64 unless stated otherwise

# The state of a place.
ABSENT, COMPUTING, DELIVERED, WAITING, LEFT = range(5)

# A worker's next action: a step (>= 0) to work on, or one of these. EXPELLED: its lease has ended,
# or a later life has taken its place. The worker may ask for a place again.
WAIT, STOP, EXPELLED = -1, -2, -3

NO_PLACE = -1  # All places are taken: the worker is a spare for now.

# Verdicts on an offered contribution.
ACCEPTED, LATE, STALE, DUPLICATE, NONFINITE = range(5)

ANY_STALENESS = 2**62  # No bound on staleness.


class Arrays(NamedTuple):
    """The array functions that the rules need."""

    where: Callable[[Array, Array, Array], Array]
    sum: Callable[[Array], Array]
    min: Callable[[Array], Array]


NUMPY = Arrays(where=np.where, sum=np.sum, min=np.min)


class Ledger(NamedTuple):
    """The state of the gate. Scalars first, then one element per place."""

    run: Array  # [] number of runs so far; a worker of an older run is told to stop
    step: Array  # [] t, the number of updates made so far
    open: Array  # [] 1 while contributions are wanted
    entries: Array  # [] number of entries so far; the number of the latest entry
    replicas: Array  # [] number of gradients that make the update from step t: N, or fewer
    wanted: Array  # [] the same, from step t + 1 on
    quota: Array  # [] number of gradients that a worker may contribute to a step: 1, or more
    holder: Array  # [places] index of the worker that holds the place
    life: Array  # [places] number of the holder's life; 0: the place is free
    entry: Array  # [places] number of the holder's entry; 0: none, or it has ended
    status: Array  # [places] ABSENT ... LEFT
    queued: Array  # [places] number of the place's contributions in the queue
    ticket: Array  # [places] ticket of the latest of them
    due: Array  # [places] step whose update uses it
    staleness: Array  # [places] its staleness at that update
    extra_ticket: Array  # [places] tickets of the others in the queue; the rest is unused
    extra_place: Array  # [places] their places
    begun: Array  # [places] number of contributions begun; the rest count how they ended
    accepted: Array  # [places]
    late: Array  # [places]
    stale: Array  # [places]
    duplicate: Array  # [places]
    lost: Array  # [places]
    nonfinite: Array  # [places]


SCALARS, VECTORS = Ledger._fields[:7], Ledger._fields[7:]


def new_ledger(places: int, replicas: int = 1) -> Ledger:
    """Return the ledger of a gate that no worker has entered, in NumPy."""
    scalars = dict.fromkeys(SCALARS, np.int64(0))
    scalars |= {"replicas": np.int64(replicas), "wanted": np.int64(replicas), "quota": np.int64(1)}
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
    finite: Array = np.int64(1),  # noqa: B008  # A constant.
    xp: Arrays = NUMPY,
) -> tuple[Ledger, Array, Array, Array]:
    """Offer a gradient that is on every parameter server, and decide whether it will be used.

    Args:
      ledger: the ledger before the call.
      me: [places] bool, true for the worker's place.
      entry: [] the number of its entry.
      run: [] the run that it works in.
      step: [] the step that its gradient was computed at.
      ticket: [] the ticket of its gradient.
      replicas: N.
      max_staleness: the greatest staleness that is accepted, or ANY_STALENESS.
      finite: [] 1, or 0 for a gradient with NaN or Inf, which is on no server.
      xp: the array functions.

    Returns:
      The ledger after the call, the verdict, the worker's next action, and whether this completed
      the step ([] bool), which is true exactly once per step.
    """
    mine = at(ledger.status, me, xp)
    valid = at(ledger.entry, me, xp) == entry
    under_way = valid & (mine == COMPUTING)
    welcome = (run == ledger.run) & (ledger.open == 1)
    queued = inside(ledger, xp)
    due = ledger.step + queued // replicas
    wanted = welcome & (due - step <= max_staleness)
    current = welcome & (step == ledger.step)
    usable = under_way & (finite > 0)
    accept = usable & wanted
    late = usable & current & ~wanted
    stale = usable & ~current & ~wanted
    nonfinite = under_way & (finite == 0)
    # A contribution that has ended already or never began is a duplicate. So is the gradient of a
    # worker whose lease has ended: it counts as lost. After the run it is not counted again.
    duplicate = ~under_way & welcome
    # A stale worker continues at once with the current step if that still needs gradients.
    again = (stale | nonfinite) & welcome & (queued < replicas)
    waits = xp.where(mine == ABSENT, np.int64(WAITING), mine)
    status = xp.where(under_way, np.int64(WAITING), waits)
    status = xp.where(welcome | (mine == DELIVERED), status, np.int64(ABSENT))
    status = xp.where(valid, status, mine)  # An ended entry changes nothing.
    status = xp.where(again, np.int64(COMPUTING), status)
    status = xp.where(accept, np.int64(DELIVERED), status)
    ledger = ledger._replace(
        status=xp.where(me, status, ledger.status),
        queued=ledger.queued + one(me & accept, xp),
        ticket=xp.where(me & accept, ticket, ledger.ticket),
        due=xp.where(me & accept, due, ledger.due),
        staleness=xp.where(me & accept, due - step, ledger.staleness),
        begun=ledger.begun + one(me & (again | duplicate), xp),
        late=ledger.late + one(me & late, xp),
        stale=ledger.stale + one(me & stale, xp),
        duplicate=ledger.duplicate + one(me & duplicate, xp),
        nonfinite=ledger.nonfinite + one(me & nonfinite, xp),
    )
    verdict = xp.where(duplicate, np.int64(DUPLICATE), np.int64(STALE))
    verdict = xp.where(late, np.int64(LATE), verdict)
    verdict = xp.where(nonfinite, np.int64(NONFINITE), verdict)
    verdict = xp.where(accept, np.int64(ACCEPTED), verdict)
    then = xp.where(valid, np.int64(WAIT), np.int64(EXPELLED))
    then = xp.where(welcome, then, np.int64(STOP))
    then = xp.where(again, ledger.step, then)
    return ledger, verdict, then, accept & (queued + 1 == replicas)


def leave(
    ledger: Ledger, me: Array, entry: Array, run: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """Record that a worker has no more data in this run, and uncount the contribution it began.

    Returns:
      The ledger after the call, and whether too few places have data left ([] bool).
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
    """Return whether step t has its N contributions and waits for its update ([] bool)."""
    return (ledger.open == 1) & full(ledger, replicas, xp)


def used(ledger: Ledger) -> Array:
    """Return the places whose contributions the update from step t uses ([places] bool)."""
    return (ledger.queued > 0) & (ledger.due == ledger.step)


def exhausted(ledger: Ledger, replicas: int, xp: Arrays = NUMPY) -> Array:
    """Return whether too few places have data left to complete step t ([] bool)."""
    remaining = xp.sum(one((ledger.status != LEFT) | (ledger.queued > 0), xp))
    return (remaining < replicas) & (ledger.open == 1)


def open_run(ledger: Ledger, step: Array, xp: Arrays = NUMPY) -> Ledger:
    """Start a new run at step t = `step`, which the workers then enter one by one.

    A contribution to the last run that is still under way will be stale when it is offered.
    """
    under_way = ledger.status == COMPUTING
    return ledger._replace(
        run=ledger.run + 1,
        step=step,
        open=ledger.open * 0 + 1,
        queued=ledger.queued * 0,
        status=xp.where(under_way, np.int64(COMPUTING), np.int64(ABSENT)),
    )


def advance(ledger: Ledger, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """Start step t + 1, after the update from step t is made and published.

    Gradients that are due later stay in the queue. They may already complete step t + 1.

    Returns:
      The ledger after the call, and [places] the token for each worker: t + 1, or WAIT for a worker
      that is computing or has a gradient in the queue.
    """
    idle = (used(ledger) & (ledger.status == DELIVERED)) | (ledger.status == WAITING)
    ledger = _make_update(ledger, xp)
    ledger = ledger._replace(
        status=xp.where(idle, np.int64(COMPUTING), ledger.status),
        begun=ledger.begun + one(idle, xp),
    )
    return ledger, xp.where(idle, ledger.step, np.int64(WAIT))


def close_run(ledger: Ledger, updated: bool, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """End the run: after its last update (`updated`), or in the middle of step t.

    Delivered gradients that are not used are stale. Workers that compute find out when they offer.

    Returns:
      The ledger after the call, and [places] the token for each worker: STOP, or WAIT for a worker
      that is not waiting for one.
    """
    if updated:
        ledger = _make_update(ledger, xp)
    idle = ((ledger.status == DELIVERED) | (ledger.status == WAITING)) & (ledger.open == 1)
    under_way = ledger.status == COMPUTING
    ledger = ledger._replace(
        open=ledger.open * 0,
        stale=ledger.stale + ledger.queued,
        queued=ledger.queued * 0,
        status=xp.where(under_way, np.int64(COMPUTING), np.int64(ABSENT)),
    )
    return ledger, xp.where(idle, np.int64(STOP), np.int64(WAIT))


def settle(ledger: Ledger, xp: Arrays = NUMPY) -> Ledger:
    """Settle the accounts: count contributions that are still under way as lost."""
    under_way = ledger.status == COMPUTING
    status = xp.where(under_way, np.int64(ABSENT), ledger.status)
    return ledger._replace(status=status, lost=ledger.lost + one(under_way, xp))


def _make_update(ledger: Ledger, xp: Arrays) -> Ledger:
    """Take the contributions that are used out of the queue, and increment t."""
    taken = xp.where(used(ledger), ledger.queued, ledger.queued * 0)
    return ledger._replace(
        step=ledger.step + 1,
        replicas=ledger.wanted,
        queued=ledger.queued - taken,
        accepted=ledger.accepted + taken,
    )


def full(ledger: Ledger, replicas: int, xp: Arrays) -> Array:
    """Return whether step t has its N contributions ([] bool)."""
    return inside(ledger, xp) >= replicas


def inside(ledger: Ledger, xp: Arrays) -> Array:
    """Return the number of contributions that wait to be used ([])."""
    return xp.sum(ledger.queued)


def at(vector: Array, me: Array, xp: Arrays) -> Array:
    """Return the element of `vector` at the single place where the mask `me` is true."""
    return xp.sum(xp.where(me, vector, vector * 0))


def one(mask: Array, xp: Arrays) -> Array:
    """Convert a boolean array to int64 zeros and ones."""
    return xp.where(mask, np.int64(1), np.int64(0))
