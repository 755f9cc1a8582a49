"""Progress of a training run with faults, on a terminal and elsewhere."""

from __future__ import annotations

import io

from scripts.faults.fault_progress import FaultProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(out: io.StringIO) -> str:
    now = 0.0
    progress = FaultProgress("faults", 200, 3, out, lambda: now)
    for made in (0, 50, 100):
        progress.show(made, faults=1)
        now += 15.0
    progress.tell("step 100: kill worker 1")
    progress.end()
    return out.getvalue()


def test_lines_come_at_intervals() -> None:
    assert shown(io.StringIO()).splitlines() == [
        "faults: update 50 of 200, fault 1 of 3",
        "faults: update 100 of 200, fault 1 of 3",
        "step 100: kill worker 1",
    ]


def test_a_terminal_has_a_bar_that_goes_away() -> None:
    parts = shown(Terminal()).split("\r\x1b[K")
    assert parts[1] == "[========......................] faults: update 50 of 200, fault 1 of 3"
    assert parts[3].startswith("step 100: kill worker 1\n[====")
    assert parts[-1] == ""
