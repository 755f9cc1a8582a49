"""Results of a training run with faults beside those of the same run without, as tables."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from typing import Any

from scripts.faults import fault_table
from scripts.faults.faulted_run import Outcome
from scripts.faults.judgement import VERDICTS, Judge, metric

Table = tuple[list[str], list[list[str]]]  # Head and rows.

_NONE = "-"


@dataclasses.dataclass(frozen=True)
class Results:
    """Results of a training run with faults.

    Args:
      faulted: the run with faults.
      baseline: the same run without; None if there was none.
      judge: what training had to keep to.
    """

    faulted: Outcome
    baseline: Outcome | None
    judge: Judge

    @property
    def failures(self) -> list[str]:
        """What failed, a sentence each; empty if nothing did."""
        found = self.judge.failures(self.faulted, self.baseline)
        if self.baseline is not None and self.baseline.failure is not None:
            found.append(f"Without faults: {self.baseline.failure}")
        return found

    @property
    def faults(self) -> Table:
        """A row for each kind of fault."""
        head = ["fault", "injected", "survived", "updates lost", "longest pause, s"]
        return head, [
            [
                row.fault,
                str(row.injected),
                str(row.survived),
                str(row.updates_lost),
                f"{row.longest_pause_s:.1f}",
            ]
            for row in fault_table.rows(self.faulted, self.judge)
        ]

    @property
    def speeds(self) -> Table:
        """A row for the run with faults, and one for that without."""
        runs = {"with faults": self.faulted, "without": self.baseline}
        head = ["", "updates", "seconds", "updates/s", "longest pause, s", self._metric]
        return head, [
            [
                name,
                str(run.course.made),
                f"{run.course.seconds:.1f}",
                f"{run.course.updates_per_s:.1f}",
                f"{_longest_s(run):.1f}",
                _text(self._result(run)) or _NONE,
            ]
            for name, run in runs.items()
            if run is not None
        ]

    @property
    def accounts(self) -> str:
        """What became of the gradients, as a sentence; empty if nobody knows."""
        if self.faulted.summary is None:
            return ""
        counts = self.faulted.summary["contributions"]
        sums = " + ".join(f"{counts[name]} {name}" for name in VERDICTS)
        since = " since the last start" if len(self.faulted.course.starts) > 1 else ""
        return f"Gradients{since}: {counts['computed']} computed = {sums}."

    def write(self, path: str, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write a CSV file with a row for each kind of fault, and one for all.

        Args:
          path: path of the file.
          settings: settings of the run, which are columns.
          environment: the same, of the machine and its versions.
        """
        course = self.faulted.course
        counts = (self.faulted.summary or {}).get("contributions", {})
        speed = self.baseline.course.updates_per_s if self.baseline else None
        common = {
            **settings,
            "updates": course.made,
            "starts": len(course.starts),
            "updates_per_s": _text(course.updates_per_s),
            "baseline_updates_per_s": _text(speed),
            "metric": self._metric,
            "result": _text(self._result(self.faulted)),
            "baseline_result": _text(self._result(self.baseline)),
            **{name: counts.get(name, "") for name in ("computed", *VERDICTS)},
            **environment,
        }
        found = fault_table.rows(self.faulted, self.judge)
        names = [field.name for field in dataclasses.fields(fault_table.Row)]
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, [*names, *common], lineterminator="\n")
            table.writeheader()
            for row in found:
                pause = {"longest_pause_s": _text(row.longest_pause_s)}
                table.writerow({**vars(row), **pause, **common})

    @property
    def _metric(self) -> str:
        return metric(self.faulted.summary)

    def _result(self, run: Outcome | None) -> float | None:
        if run is None or run.summary is None:
            return None
        return float(run.summary["validation"][self._metric])


def _longest_s(run: Outcome) -> float:
    return max((pause.seconds for pause in run.course.pauses()), default=0.0)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
