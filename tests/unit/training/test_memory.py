from __future__ import annotations

from pathlib import Path

import pytest

from scripts.training import memory


def test_a_cluster_that_fits_is_fine() -> None:
    memory.check(4, 1, 1.76)  # 5 x 0.35
    memory.check(500, 17, None)


def test_a_cluster_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="53 workers, with 17 parameter servers") as caught:
        memory.check(53, 17, 7.8)
    for words in ("24.5 GiB", "7.8 GiB", "--replicas", "--ps_tasks", "--recipe=small", "TF_CONFIG"):
        assert words in str(caught.value)
    with pytest.raises(ValueError):
        memory.check(4, 1, 1.74)


def test_reads_what_linux_says(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       24634288 kB\nMemAvailable:    3145728 kB\n")
    assert memory.available_gib(str(path)) == pytest.approx(3.0)
    path.write_text("MemTotal:       24634288 kB\n")
    assert memory.available_gib(str(path)) is None
    assert memory.available_gib(str(tmp_path / "none")) is None
