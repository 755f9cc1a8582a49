"""The rules for updates while workers are missing, as pure functions on the ledger.

There are two ways to go on with fewer than N workers, both for synchronous training only: updates
of fewer than N gradients (`resize`), or of N gradients of which a worker computes several, each on
another batch (`set_quota`, `continue_step`).

The *quota* is the number of gradients that a worker may contribute to a step. It is 1 while N
workers are alive, and then an update uses gradients of N different workers. A worker that has
contributed fewer than the quota is told to work on the same step again, until the step has its N
gradients. When the quota falls, what was delivered or begun before may still be used.

Verdicts do not depend on the quota: each contribution has a ticket of its own, and a worker has at
most one under way.
"""

from __future__ import annotations

import numpy as np

from tf_backup.rules.protocol import (
    ACCEPTED,
    COMPUTING,
    DELIVERED,
    NUMPY,
    WAIT,
    Array,
    Arrays,
    Ledger,
    at,
    full,
    inside,
    one,
)


def resize(ledger: Ledger, wanted: Array, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """Change the number of gradients that make an update.

    It holds from step t on, unless that is complete: its update may be in progress, so it holds
    from the next step on. A step that has more gradients already is made of these.

    Args:
      ledger: the ledger before the call.
      wanted: [] the number of gradients that are wanted, at least 1.
      xp: the array functions.

    Returns:
      The ledger after the call, and whether this completed step t ([] bool).
    """
    free = ~full(ledger, ledger.replicas, xp)
    queued = inside(ledger, xp)
    replicas = xp.where(queued > wanted, queued, wanted)
    replicas = xp.where(free, replicas, ledger.replicas)
    completes = free & (queued >= replicas) & (ledger.open == 1)
    return ledger._replace(replicas=replicas, wanted=wanted), completes


def quota_for(replicas: int, alive: int) -> int:
    """Return the smallest quota with which `alive` workers can make an update of N gradients."""
    return -(-replicas // max(1, alive))


def set_quota(
    ledger: Ledger, quota: Array, replicas: int, xp: Arrays = NUMPY
) -> tuple[Ledger, Array]:
    """Change the number of gradients that a worker may contribute to a step.

    Args:
      ledger: the ledger before the call.
      quota: [] the number, at least 1.
      replicas: N.
      xp: the array functions.

    Returns:
      The ledger after the call, and [places] the token for each worker: t if it waits and is to
      contribute to step t again, else WAIT.
    """
    more = (ledger.status == DELIVERED) & (ledger.queued < quota) & (ledger.open == 1)
    more = more & ~full(ledger, replicas, xp)
    ledger = ledger._replace(
        quota=quota,
        status=xp.where(more, np.int64(COMPUTING), ledger.status),
        begun=ledger.begun + one(more, xp),
    )
    return ledger, xp.where(more, ledger.step, np.int64(WAIT))


def continue_step(
    before: Ledger,
    after: Ledger,
    places: Array,
    me: Array,
    verdict: Array,
    then: Array,
    replicas: int,
    xp: Arrays = NUMPY,
) -> tuple[Ledger, Array]:
    """Let a worker whose offer was accepted contribute again, if its quota and the step allow it.

    Args:
      before: the ledger before the offer.
      after: the ledger after it.
      places: [places] 0, 1, 2 ...
      me: [places] bool, true for the worker's place.
      verdict: [] the verdict on the offer.
      then: [] the worker's next action otherwise.
      replicas: N.
      xp: the array functions.

    Returns:
      The ledger after the call, and the worker's next action.
    """
    accepted = verdict == ACCEPTED
    # Keep the ticket that this offer has replaced, in the first slot that is not in use.
    again = accepted & (at(before.queued, me, xp) > 0)
    extras = inside(before, xp) - xp.sum(one(before.queued > 0, xp))
    slot = (places == extras) & again
    go = accepted & (at(after.queued, me, xp) < after.quota) & ~full(after, replicas, xp)
    ledger = after._replace(
        status=xp.where(me & go, np.int64(COMPUTING), after.status),
        begun=after.begun + one(me & go, xp),
        extra_ticket=xp.where(slot, at(before.ticket, me, xp), after.extra_ticket),
        extra_place=xp.where(slot, at(places, me, xp), after.extra_place),
    )
    return ledger, xp.where(go, after.step, then)
