"""Training whose log directory becomes full or read-only: a small tmpfs in a namespace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.processes import ROOT, environment
from tests.extra import extra

SCRIPT = """
mount -t tmpfs -o size=1500k tmpfs "$1" || exit 77
train() {
    "$2" scripts/train.py --strategy=one_device --updates=400 --updates_per_epoch=20 \
        --checkpoint_minutes=0.01 --log_dir="$1/run"
}
damage() {
    if [ "$4" = full ]; then head -c 4M /dev/zero > "$1/fill"; return; fi
    mount --bind "$1/run" "$1/run" && mount -o remount,bind,ro "$1/run" || exit 77
}
repair() { if [ "$4" = full ]; then rm "$1/fill"; else umount "$1/run"; fi; }
[ "$3" = beginning ] && { mkdir "$1/run"; damage "$@" 2> /dev/null; }
train "$@" & pid=$!
if [ "$3" = middle ]; then
    until grep -q "^1," "$1/run/history.csv" || ! kill -0 $pid; do sleep 0.05; done 2> /dev/null
    damage "$@" 2> /dev/null
fi
wait $pid
echo "ended with $?"
repair "$@"
train "$@"
echo "then with $?"
"""


@extra
@pytest.mark.parametrize(
    ("disk", "error"),
    [("full", "No space left on device"), ("read-only", "Read-only file system")],
    ids=["full", "read-only"],
)
@pytest.mark.parametrize("when", ["beginning", "middle"])
def test_such_a_disk_costs_checkpoints_and_not_the_training(
    when: str, disk: str, error: str, tmp_path: Path
) -> None:
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "train"]
    done = subprocess.run(
        [*command, str(tmp_path), sys.executable, when, disk],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr[:100]}")
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    if when == "beginning":  # Not even the plan can be written.
        assert "ended with 2\n" in done.stdout
        assert error in done.stderr
    else:
        assert "ended with 1\n" in done.stdout
        assert "No checkpoint after " in done.stderr and error in done.stderr
        assert "All 400 updates were made, but the last checkpoint could not be saved" in said
        assert "Make room; the same command goes on from the one before." in said
    assert done.stdout.endswith("then with 0\n")
