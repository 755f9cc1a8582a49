"""Memory limits of the control groups, such as a container's, that this process is in.

Read by hand: psutil knows the memory of the whole machine only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class MemoryLimit(NamedTuple):
    """Memory of a control group.

    Attributes:
      most: bytes that its processes may use together.
      used: bytes that they use and that the kernel cannot take back.
    """

    most: int
    used: int

    @property
    def left(self) -> int:
        """Bytes that its processes may still allocate."""
        return max(0, self.most - self.used)


class _Files(NamedTuple):
    """Files of a version of control groups: where groups are, and what is in each."""

    groups: str
    most: str
    used: str
    reclaimable: str  # A field of memory.stat: pages of files that were not read lately.


_V1 = _Files(
    "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)
_V2 = _Files("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """Return the limits of this process's control group and of those around it.

    Args:
      root: root of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []  # Linux has no control groups.
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += _limits(root, _V2, path)
        elif "memory" in controllers.split(","):
            found += _limits(root, _V1, path)
    return found


def _limits(root: Path, files: _Files, path: str) -> list[MemoryLimit]:
    """Return the limits along a path of control groups.

    In a container, the path may be the machine's, with the container's own group mounted first.
    """
    found = []
    folder = root / files.groups
    for part in ("", *PurePosixPath(path.lstrip("/")).parts):
        folder /= part
        # Skip groups without a limit ("max"), without files (the machine's first), or not mounted.
        with contextlib.suppress(OSError, ValueError):
            most = int((folder / files.most).read_text())
            used = int((folder / files.used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            found.append(MemoryLimit(most, used - int(stat.get(files.reclaimable, 0))))
    return found
