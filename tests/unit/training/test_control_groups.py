"""Memory limits of containers, in files that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.training.control_groups import MemoryLimit, memory_limits

GIB = 2**30


def group(folder: Path, most: object, used: int, reclaimable: int) -> None:
    """Write the files of a group of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used}\ninactive_file {reclaimable}\nslab 0\n")


def group_v1(folder: Path, most: int, used: int, reclaimable: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{most}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    stat = f"inactive_file 1\ntotal_inactive_file {reclaimable}\n"
    (folder / "memory.stat").write_text(stat)


def this_process_is_in(root: Path, *lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def test_a_container_sees_its_own_group_as_the_first(tmp_path: Path) -> None:
    this_process_is_in(tmp_path, "0::/")
    group(tmp_path / "sys/fs/cgroup", 4 * GIB, 3 * GIB, GIB)
    (limit,) = memory_limits(tmp_path)
    assert limit == MemoryLimit(4 * GIB, 2 * GIB)
    assert limit.left == 2 * GIB


def test_groups_around_it_count_too(tmp_path: Path) -> None:
    this_process_is_in(tmp_path, "0::/kubepods/pod/main")
    groups = tmp_path / "sys/fs/cgroup"
    groups.mkdir(parents=True)  # The kernel's first group has no such files.
    group(groups / "kubepods", "max", 9 * GIB, 0)
    group(groups / "kubepods/pod", 6 * GIB, 5 * GIB, 0)
    group(groups / "kubepods/pod/main", 4 * GIB, GIB, 0)
    group(groups / "kubepods/pod/other", GIB, GIB, 0)
    assert [limit.left for limit in memory_limits(tmp_path)] == [GIB, 3 * GIB]


@pytest.mark.parametrize("path", ["/docker/0a1b", "/../../elsewhere"])
def test_a_path_of_the_machine_may_not_be_in_the_container(tmp_path: Path, path: str) -> None:
    this_process_is_in(tmp_path, f"0::{path}")
    group(tmp_path / "sys/fs/cgroup", 4 * GIB, GIB, 0)
    assert memory_limits(tmp_path) == [MemoryLimit(4 * GIB, GIB)]


def test_version_1_has_other_files(tmp_path: Path) -> None:
    memory = "5:cpuset,memory:/docker/0a1b"
    this_process_is_in(tmp_path, "6:cpu,cpuacct:/docker/0a1b", memory, "0::/unified")
    groups = tmp_path / "sys/fs/cgroup/memory"
    group_v1(groups, 2**63 - 4096, 9 * GIB, 0)
    group_v1(groups / "docker/0a1b", 4 * GIB, 3 * GIB, GIB)
    assert memory_limits(tmp_path)[1:] == [MemoryLimit(4 * GIB, 2 * GIB)]


def test_more_may_be_used_than_a_lowered_limit(tmp_path: Path) -> None:
    this_process_is_in(tmp_path, "0::/")
    group(tmp_path / "sys/fs/cgroup", GIB, 2 * GIB, 0)
    assert [limit.left for limit in memory_limits(tmp_path)] == [0]


def test_there_may_be_no_groups_and_no_limits(tmp_path: Path) -> None:
    assert memory_limits(tmp_path) == []
    this_process_is_in(tmp_path, "0::/user.slice")
    group(tmp_path / "sys/fs/cgroup/user.slice", "max", GIB, 0)
    assert memory_limits(tmp_path) == []
