"""Routes by which the workers of local clusters reach the parameter servers; tests may change them.

Example: a proxy in front of each parameter server, one for each worker, that can drop its traffic.

    with worker_routes.through(addresses_of_proxies), tf_backup.LocalCluster(workers=4) as local:
        ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

# Returns other addresses for the parameter servers, in their order, given a worker's index and the
# addresses. Called at each start of a worker; those of a worker that starts again are the same.
Route = Callable[[int, Sequence[str]], Sequence[str]]

_routes: list[Route] = []  # Of the contexts that are entered, the innermost last.


@contextlib.contextmanager
def through(route: Route) -> Iterator[None]:
    """Let all workers that are started within this context use a route."""
    _routes.append(route)
    try:
        yield
    finally:
        _routes.remove(route)


def of_worker(index: int, addresses: Sequence[str]) -> list[str]:
    """Return the addresses at which a worker reaches the parameter servers.

    Args:
      index: index of the worker.
      addresses: addresses of the parameter servers, `host:port` each.
    """
    return list(_routes[-1](index, addresses) if _routes else addresses)
