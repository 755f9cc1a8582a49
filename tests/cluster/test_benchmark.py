"""scripts/benchmark.py as users run it: on all programs, interrupted, and with wrong flags."""

from __future__ import annotations

import dataclasses
import re
import signal
import uuid
from pathlib import Path

import pytest

from scripts.benchmarks import rows
from tests.cluster.processes import MARK, marked, start_fresh, wait_until
from tests.extra import extra

SCRIPT = "scripts/benchmark.py"

SYSTEMS = ["tf_backup"]
OTHERS = ["stock_async", "sync_replicas", "all_reduce", "one_device"]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "systems", [SYSTEMS, pytest.param(OTHERS, marks=extra)], ids=["tf_backup", "others"]
)
def test_all_programs_run(systems: list[str], tmp_path: Path) -> None:
    table, report = tmp_path / "speed.csv", tmp_path / "speed.md"
    flags = ["--smoke", "--workers=2", f"--systems={','.join(systems)}"]
    mark = uuid.uuid4().hex
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    flags += [f"--csv={table}", f"--markdown={report}", "--profile"]
    process = start_fresh(SCRIPT, *flags, **{MARK: mark, "TMPDIR": str(temporary)})
    out, err = process.communicate(timeout=570)
    assert process.returncode == 0, err[-3000:]
    assert not marked(mark)
    assert not list(temporary.iterdir())

    found = {row.system: row for row in rows.read(str(table))}
    assert set(found) == set(systems)
    for name, row in found.items():
        assert row.updates >= 3 and row.seconds > 0
        assert row.worker_cpu_s > 0 and row.worker_peak_mib > 100
        assert (row.coordinator_bytes is not None) == (name in ("tf_backup", "stock_async"))
        if row.workers > 1:  # Gradients travel; other programs may use the interface, too.
            assert row.wire_bytes / row.gradients > 900_000
        # One parameter server: all parts of an update are known.
        parts = dataclasses.astuple(row.times)
        assert all(part is not None and part >= 0 for part in parts) == (name == "tf_backup")
        assert name != "tf_backup" or sum(parts) < 1e3 * row.seconds
        assert (row.ps_peak_mib is not None) == (
            name in ("tf_backup", "stock_async", "sync_replicas")
        )
    assert "all_reduce" not in found or found["all_reduce"].replicas == 2
    assert out == report.read_text()

    # A line for each measurement, and nothing else.
    lines = err.splitlines()
    assert len(lines) == len(systems)
    for index, (line, name) in enumerate(zip(lines, found, strict=True)):
        assert re.match(
            rf"{index + 1} of {len(systems)}\b.*: dense, 1 ps, round 1, {name} \.\.\. [\d.]+ ", line
        )


@extra
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_it(number: signal.Signals) -> None:
    mark = uuid.uuid4().hex
    process = start_fresh(SCRIPT, "--smoke", "--systems=tf_backup", "--workers=2", **{MARK: mark})
    try:
        # The script, a chief, two workers, a ps, and their fork server.
        wait_until(lambda: len(marked(mark)) == 6)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        wait_until(lambda: not marked(mark))
    finally:
        process.kill()
    if number == signal.SIGINT:
        assert process.returncode == 1
        assert err.endswith("Interrupted.\n")
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--models=foo", "--models has 'foo'; it must be some of: dense, cnn, inception, emb"),
        ("--systems=", "--systems has ''; it must be some of: one_device"),
        ("--ps=1,x", "--ps has 'x'; it must be numbers of at least 1"),
        ("--rounds=0", "flag --rounds=0: 0 is not a positive integer"),
        ("--picture=a.svg", "--picture is drawn from a CSV file: give --csv or --read"),
        ("--read=no.csv", "No such file or directory: 'no.csv'"),
        ("--read=setup.py", "setup.py has no column"),
        ("dense", "takes flags only, not 'dense'"),
    ],
)
def test_nonsense_is_one_line(flag: str, line: str) -> None:
    process = start_fresh(SCRIPT, flag)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert line in err
    assert len(err.splitlines()) == 1


def test_help_names_all_systems_and_models() -> None:
    process = start_fresh(SCRIPT, "--help")
    out, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 1)  # absl's exit codes for --help.
    for word in (
        *SYSTEMS,
        *OTHERS,
        "tf_backup_slow_worker",
        "inception",
        "--slow_worker",
        "--smoke",
    ):
        assert word in out
