"""What a report of a long training costs."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

from tests.extra import extra
from tests.unit.recorded_training import trained_long
from tf_backup.timeline import parquet

ROOT = pathlib.Path(__file__).parents[3]

# The report, and what its process needed: processor time in seconds, and memory in MiB.
MEASURED = """
import re, resource, runpy, sys
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    print("needed", usage.ru_utime + usage.ru_stime, int(peak) / 1024)
"""


@extra
def test_a_report_of_100_000_updates_by_16_workers_is_cheap(tmp_path: pathlib.Path) -> None:
    timeline = trained_long(14, 2, 100_000, "a")
    parquet.Writer(tmp_path, timeline.settings).write(timeline.contributions, timeline.updates)
    code = f"import sys; sys.argv = ['scripts/report.py', {str(tmp_path)!r}]\n{MEASURED}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert "index.html: 100,000 updates" in done.stdout, done.stderr
    needed = re.search(r"^needed (\S+) (\S+)$", done.stdout, re.MULTILINE)
    assert needed is not None
    page = (tmp_path / "report" / "index.html").stat().st_size
    assert float(needed[1]) < 60, needed[0]
    assert float(needed[2]) < 2048, needed[0]
    assert page < 5 * 2**20
