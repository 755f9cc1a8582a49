"""scripts/training/directory_lock.py: one chief for a directory."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scripts.training.directory_lock import DirectoryInUse, DirectoryLock

HOLDER = """
import sys, time
from scripts.training.directory_lock import DirectoryLock
lock = DirectoryLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def hold(directory: Path) -> subprocess.Popen[str]:
    """Starts a process that holds the lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_another_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    with pytest.raises(ValueError, match=rf"in use by process {holder.pid} on .*--log_dir"):
        DirectoryLock(str(tmp_path))
    holder.kill()
    holder.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_survive_its_process(tmp_path: Path, number: int) -> None:
    holder = hold(tmp_path)
    holder.send_signal(number)
    holder.communicate()
    DirectoryLock(str(tmp_path), lease_s=600.0).release()  # At once: it was on this machine.


def test_it_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        DirectoryLock(str(tmp_path), lease_s=600.0).release()
    assert not (tmp_path / "chief.json").exists()


def elsewhere(directory: Path, beat: int) -> None:
    """Writes the lease of a process on another machine."""
    lease = {"machine": "another", "host": "elsewhere", "pid": 7, "started": "today", "beat": beat}
    (directory / "partial").write_text(json.dumps(lease))
    (directory / "partial").replace(directory / "chief.json")


def test_a_holder_on_another_machine_is_seen_by_its_lease(tmp_path: Path) -> None:
    elsewhere(tmp_path, 0)
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(0.01):
            count += 1
            elsewhere(tmp_path, count)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(ValueError, match="in use by process 7 on elsewhere, started today"):
        DirectoryLock(str(tmp_path), lease_s=60.0)
    done.set()
    thread.join()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_lease_that_nobody_renews_ends(tmp_path: Path, damaged: bool) -> None:
    elsewhere(tmp_path, 3)
    if damaged:
        (tmp_path / "chief.json").write_text('{"host": "else')
    lock = DirectoryLock(str(tmp_path), lease_s=0.1)
    assert json.loads((tmp_path / "chief.json").read_text())["host"] != "elsewhere"
    lock.release()


def test_one_that_was_taken_over_says_so_and_leaves_the_lease(tmp_path: Path) -> None:
    lost = threading.Event()
    lock = DirectoryLock(str(tmp_path), lost.set, beat_s=0.01)
    elsewhere(tmp_path, 0)
    assert lost.wait(60)
    lock.release()
    assert json.loads((tmp_path / "chief.json").read_text())["host"] == "elsewhere"


def test_one_that_is_given_up_meanwhile_can_be_taken(tmp_path: Path) -> None:
    elsewhere(tmp_path, 0)
    given_up = threading.Timer(0.2, (tmp_path / "chief.json").unlink)
    given_up.start()
    DirectoryLock(str(tmp_path), lease_s=60.0).release()
    given_up.join()


@pytest.fixture
def no_file_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)


def test_without_file_locks_the_lease_keeps_others_out(no_file_locks: None, tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path), beat_s=0.01)
    lease = json.loads((tmp_path / "chief.json").read_text())
    # As if another process of this machine held it.
    lock.release()
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(0.01):
            count += 1
            (tmp_path / "partial").write_text(json.dumps({**lease, "pid": 7, "beat": count}))
            (tmp_path / "partial").replace(tmp_path / "chief.json")

    thread = threading.Thread(target=beat)
    (tmp_path / "chief.json").write_text(json.dumps({**lease, "pid": 7}))
    thread.start()
    with pytest.raises(DirectoryInUse, match="in use by process 7"):
        DirectoryLock(str(tmp_path), lease_s=60.0)
    done.set()
    thread.join()


def test_a_file_lock_of_a_machine_that_died_is_outwaited(tmp_path: Path) -> None:
    holder = hold(tmp_path)  # In the place of a server that keeps the lock.
    holder.send_signal(signal.SIGSTOP)
    elsewhere(tmp_path, 3)
    DirectoryLock(str(tmp_path), lease_s=0.1).release()
    holder.kill()
    holder.communicate()


def test_the_lease_is_renewed(tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path), beat_s=0.01)
    beats = set()
    while len(beats) < 3:  # The test's time limit ends it otherwise.
        beats.add(json.loads((tmp_path / "chief.json").read_text())["beat"])
    lock.release()
