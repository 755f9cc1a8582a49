"""Order of the tests, and what they and the programs that they start have in common."""

from __future__ import annotations

import os
import sys

import pytest

# The programs that tests start import the same modules a hundred times: compile them once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of clusters first, in an order that starts few clusters.

    Each process of pytest-xdist takes the next file when it has nearly finished one, and keeps its
    cluster for the next file that wants the same size. These files, which compute much, alternate
    with those whose programs have clusters of their own, which also wait.
    """
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    of_clusters = [name for name in files if name.startswith("tests/cluster/")]
    sizes = {name: _sizes(files[name]) for name in of_clusters}
    sharing = sorted((name for name in of_clusters if sizes[name]), key=lambda name: sizes[name])
    # First those that end the cluster that others share.
    alone = [name for name in of_clusters if not sizes[name]]
    alone.sort(key=lambda name: not any("kept" in _fixtures(item) for item in files[name]))
    order = []
    while sharing or alone:
        order += [names.pop(0) for names in (sharing, alone) if names]
    order += [name for name in files if name not in of_clusters]
    items[:] = [item for name in order for item in files[name]]


def _sizes(items: list[pytest.Item]) -> list[tuple[int, int]]:
    """Return the sizes of the clusters that the tests of a file share, smallest first."""
    calls = [getattr(item, "callspec", None) for item in items]
    return sorted({call.params["cluster"] for call in calls if call and "cluster" in call.params})


def _fixtures(item: pytest.Item) -> list[str]:
    return list(getattr(item, "fixturenames", []))
