"""The rule for updates of fewer than N gradients, as a pure function on the ledger."""

from __future__ import annotations

from tf_backup.rules.protocol import NUMPY, Array, Arrays, Ledger, full, inside


def resize(ledger: Ledger, wanted: Array, xp: Arrays = NUMPY) -> tuple[Ledger, Array]:
    """Change the number of gradients that make an update; synchronous training only.

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
