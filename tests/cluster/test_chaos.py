"""scripts/chaos.py as users run it: faults at steps, too long a pause, interrupted, wrong flags."""

from __future__ import annotations

import csv
import os
import re
import signal
import uuid
from pathlib import Path

import pytest

from tests.cluster.processes import MARK, marked, start_fresh, wait_until
from tests.extra import extra, with_extra

SCRIPT = "scripts/chaos.py"
SMALL = ["--replicas=1", "--backups=1", "--step_s=0.02"]


CHIEF = "kill chief at step 90"


@pytest.mark.long
@pytest.mark.parametrize("chief", with_extra([False, True], True), ids=["workers", "chief"])
def test_training_goes_on_after_faults(tmp_path: Path, chief: bool) -> None:
    table, mark = tmp_path / "faults.csv", uuid.uuid4().hex
    flags = [*SMALL, "--replicas=2", "--nobaseline", "--updates=160", "--checkpoint_s=0.5"]
    flags += [f"--log_dir={tmp_path / 'logs'}", f"--csv={table}", "--seed=3"]
    flags += ["--fault=kill worker 1 at step 20", "--fault=freeze worker 0 from step 40 to step 60"]
    flags += ["--fault=slow ps 0 by 2 from step 70 to step 80"]
    flags += [f"--fault={CHIEF}"] if chief else []
    process = start_fresh(SCRIPT, *flags, **{MARK: mark})
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:] + out
    wait_until(lambda: not marked(mark))  # Tasks of a chief that was killed end by themselves.

    with table.open(newline="") as file:
        rows = {row["fault"]: row for row in csv.DictReader(file)}
    kinds = ["kill worker", "freeze worker", "slow ps", *["kill chief"][: int(chief)]]
    assert list(rows) == [*kinds, "no fault", "all"]
    faults, starts = str(3 + chief), str(1 + chief)
    assert [row["injected"] for row in rows.values()] == [*"1" * len(kinds), "0", faults]
    for row in rows.values():
        assert row["survived"] == row["injected"]
        assert (row["starts"], row["updates"], row["seed"]) == (starts, "160", "3")
        assert "slow ps 0 by 2 from step 70" in row["command"]
        counts = [int(row[name]) for name in ("accepted", "late", "stale", "duplicate", "lost")]
        assert int(row["computed"]) == sum(counts) + int(row["nonfinite"])
    assert rows["kill worker"]["updates_lost"] == "0"
    last = rows[kinds[-1]]  # Only a fault of the chief costs updates.
    assert last["updates_lost"] == rows["all"]["updates_lost"]
    assert f"{faults} |        {faults} |" in out
    assert ("Gradients since the last start: " in out) == chief
    told = re.findall(r"^step (\d+), \d+ s: (.*)$", err, re.MULTILINE)
    moments = [int(step) for step, _ in told]
    assert moments == sorted(moments)
    assert [fault.partition(" at ")[0].partition(" from ")[0] for _, fault in told] == [
        "kill worker 1",
        "freeze worker 0",
        "slow ps 0 by 2",
        *["kill chief"][: int(chief)],
    ]


@pytest.mark.skipif(
    "TF_BACKUP_TEST_FAULTS" not in os.environ,
    reason="long; tests/unit/faults/test_judgement.py is not",
)
def test_too_long_a_pause_is_a_failure_that_is_named() -> None:
    flags = [
        *SMALL,
        "--nobaseline",
        "--updates=40",
        "--max_pause_s=0.001",
        "--fault=freeze worker 1 for 1 s at 0 s",
    ]
    process = start_fresh(SCRIPT, *flags)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, err[-3000:]
    assert re.search(r"Failed:\nA pause of .* is longer than the 0\.001 s of --max_pause_s\.", err)
    assert re.search(r"^\| with faults +\| +40 \|", out, re.MULTILINE)
    assert "freeze worker" in out and "computed = 40 accepted + " in out


@extra
def test_a_worker_whose_network_was_cut_is_lost_and_comes_back(tmp_path: Path) -> None:
    flags = [*SMALL, "--nobaseline", "--updates=600", "--worker_timeout_s=2"]
    flags += [f"--log_dir={tmp_path}", "--fault=cut worker 1 for 5 s at step 20"]
    out, err = start_fresh(SCRIPT, *flags).communicate(timeout=240)
    assert re.search(r"^\| cut worker +\| +1 \| +1 \| +0 \|", out, re.MULTILINE), err[-3000:] + out
    said = (tmp_path / "faults" / "train.log").read_text()
    assert said.index("Lost worker 1 ") < said.index("Worker 1 (localhost:")
    assert re.search(r"^ +1 +\d+ +[1-9]", said, re.MULTILINE), said  # It contributed again.


@extra
def test_ctrl_c_ends_it_and_all_processes_also_frozen_ones() -> None:
    mark = uuid.uuid4().hex
    fault = "freeze worker 1 for 1000 s at step 5"
    process = start_fresh(SCRIPT, *SMALL, "--updates=100000", f"--fault={fault}", **{MARK: mark})
    assert process.stderr is not None
    while fault not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.endswith("Interrupted.\n") and "Traceback" not in err
    wait_until(lambda: not marked(mark), timeout_s=10)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--fault=explode worker 1 at step 5"], "must come first, not 'explode'. Write it as in"),
        (["--fault=kill worker 9 at step 5"], "but the cluster has worker 0 to 4. Name one of"),
        (["--fault=kill worker 1 at -5 s"], "the time is -5; it must be at least 0. Write it as"),
        (["--fault=kill worker 1 at step 50", "--updates=50"], "but training ends at step 50."),
        (["--fault=kill chief at step 50"], "has to go on from a checkpoint. Give --log_dir"),
        (["--fault=kill ps 0 at 5 s", f"--log_dir={os.path.dirname(__file__)}"], "has files."),
        (["--fault=kill worker 1 at 5 s", "--step_s=0"], "how many updates 5 s need. Give --upd"),
        (["--random_faults=5", "--random_jobs=all"], "--random_jobs has 'all'; it must be some"),
        (["--random_faults=5", "--mean_seconds_between_faults=0"], "must be above 0 and finite"),
        (["--random_faults=-1"], "flag --random_faults=-1"),
        ([], "there is no fault to inject. Give --fault or --random_faults."),
        (["kill"], "takes flags only, not 'kill'"),
    ],
)
def test_nonsense_is_one_line(flags: list[str], line: str) -> None:
    process = start_fresh(SCRIPT, *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert line in err
    assert len(err.splitlines()) == 1


def test_help_teaches() -> None:
    out, _ = start_fresh(SCRIPT, "--help").communicate(timeout=60)
    for word in ("kill worker 1 at step 50", "cut worker 1 for 20 s", "--random_", "Exit codes"):
        assert word in out
