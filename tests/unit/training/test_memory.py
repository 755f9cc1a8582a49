from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from scripts.training import memory
from scripts.training.control_groups import MemoryLimit

GIB = 2**30


def test_a_cluster_that_fits_is_fine() -> None:
    memory.check(4, 1, 1.76)  # 5 x 0.35


def test_a_cluster_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="53 workers, with 17 parameter servers") as caught:
        memory.check(53, 17, 7.8)
    for words in ("24.5 GiB", "7.8 GiB", "--replicas", "--ps_tasks", "--recipe=small", "TF_CONFIG"):
        assert words in str(caught.value)
    with pytest.raises(ValueError):
        memory.check(4, 1, 1.74)


@pytest.mark.parametrize(
    ("limits", "available", "total"),
    [
        ([], 200.0, 256.0),
        ([MemoryLimit(4 * GIB, 3 * GIB)], 1.0, 4.0),  # A container on a large machine.
        ([MemoryLimit(8 * GIB, 7 * GIB), MemoryLimit(4 * GIB, GIB)], 1.0, 4.0),
        ([MemoryLimit(2**63 - 4096, GIB)], 200.0, 256.0),
    ],
)
def test_a_container_has_at_most_its_limit(
    monkeypatch: pytest.MonkeyPatch, limits: list[MemoryLimit], available: float, total: float
) -> None:
    machine = SimpleNamespace(available=200 * GIB, total=256 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "memory_limits", lambda: limits)
    assert memory.available_gib() == available
    assert memory.total_gib() == total


def test_this_machine_has_memory() -> None:
    assert 0.0 < memory.available_gib() <= memory.total_gib()
