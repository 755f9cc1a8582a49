"""tf_backup/cluster/scratch_folder.py: no folder outlives its process for long."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tf_backup.cluster.scratch_folder import ScratchFolder


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_it_is_private_and_goes(directory: Path) -> None:
    folder = ScratchFolder()
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    folder.remove()
    assert not list(directory.iterdir())


def test_that_of_a_process_that_was_killed_goes_with_the_next(directory: Path) -> None:
    program = (
        "import os, signal\n"
        "from tf_backup.cluster.scratch_folder import ScratchFolder\n"
        "folder = ScratchFolder()\n"
        "open(os.path.join(folder.path, 'worker0.log'), 'w').close()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(directory)}, check=False
    )
    (left,) = directory.iterdir()
    folder = ScratchFolder()
    assert [str(path) for path in directory.iterdir()] == [folder.path] != [str(left)]
    folder.remove()


def test_others_stay(directory: Path) -> None:
    first = ScratchFolder()  # Of a process that lives.
    (directory / "tf_backup_mine").mkdir()  # No folder of ours: nothing in it is locked.
    (directory / "tf_backup_file").touch()
    second = ScratchFolder()
    assert len(list(directory.iterdir())) == 4
    second.remove()
    first.remove()
