"""The result of `recommend`, and how it is printed."""

from __future__ import annotations

import dataclasses
import textwrap

_WIDTH = 80
_SHOWN = 16  # Splits in a printed table; of more, those that would be fastest.


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of the workers into N and b, and how fast it would train.

    Attributes:
      replicas: N.
      backups: b.
      seconds_per_update: mean time between updates, by replay of the measured steps. A worker that
        is still busy when its step is over is missing from the next one.
      order_statistic_s: mean time from a step's start to its N-th gradient if all N + b workers
        began together in every step, plus the time that the update takes: the paper's estimate.
      gradients_per_s: N / seconds_per_update.
      samples_per_s: the same in samples; None if the batch size is unknown.
      wasted: share of the gradients that no update uses.
      time_to_converge: time that training takes, relative to that of the fastest split, which is 1.
        NaN if the number of updates is not known for this N.
      confidence: share of the resamples in which this split is the fastest.
    """

    replicas: int
    backups: int
    seconds_per_update: float
    order_statistic_s: float
    gradients_per_s: float
    samples_per_s: float | None
    wasted: float
    time_to_converge: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Advice:
    """Which N and b would train fastest on the cluster that a timeline is of.

    Attributes:
      replicas: N of the fastest split.
      backups: its b.
      splits: all splits, by N from 1 to the number of workers.
      confidence: share of the resamples in which this split is the fastest.
      gain: how much more progress per second it makes than the run's own split; 0.25 is 25 % more.
        None if there is nothing to compare with: training was asynchronous, its N changed, or the
        number of updates is not known for the run's own N.
      gain_interval: interval for `gain`, at the confidence `level`; None if `gain` is.
      level: the confidence level.
      lost_by_choice: share of its time, in percent, that the run lost by its choice of N and b.
        None if `gain` is.
      run: N and b of the run; None if N changed.
      updates: number of updates that were measured.
      update_s: median time from an update's N-th gradient to the next step, in seconds.
      measured_s: mean time between two updates as measured, in seconds; NaN if unknown.
      notes: what a reader should know about the data or the result.
    """

    replicas: int
    backups: int
    splits: tuple[Split, ...]
    confidence: float
    gain: float | None
    gain_interval: tuple[float, float] | None
    level: float
    lost_by_choice: float | None
    run: tuple[int, int] | None
    updates: int
    update_s: float
    measured_s: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a table of the splits, a conclusion of two sentences, and the notes."""
        lines = [_HEADER, *map(self._line, self._shown())]
        hidden = len(self.splits) - len(lines) + 1
        if hidden:
            lines.append(f"({hidden} slower splits are not shown.)")
        lines += ["", *textwrap.wrap(self._conclusion(), _WIDTH)]
        for note in self.notes:
            lines += textwrap.wrap(note, _WIDTH, initial_indent="* ", subsequent_indent="  ")
        return "\n".join(lines)

    def _shown(self) -> list[Split]:
        by_time = sorted(self.splits, key=lambda split: (_known(split), split.time_to_converge))
        chosen = by_time[:_SHOWN]
        chosen += [split for split in by_time[_SHOWN:] if self._is_run(split)]
        return sorted(chosen, key=lambda split: split.replicas)

    def _is_run(self, split: Split) -> bool:
        return (split.replicas, split.backups) == self.run

    def _line(self, split: Split) -> str:
        marks = ["fastest"] * (split.replicas == self.replicas)
        marks += ["this run"] * self._is_run(split)
        cells = (
            f"{split.replicas:>4}{split.backups:>4}{_seconds(split.seconds_per_update):>11}"
            f"{_seconds(split.order_statistic_s):>11}{split.gradients_per_s:>11.4g}"
            f"{split.wasted:>8.0%}{split.time_to_converge:>7.2f}{split.confidence:>8.0%}  "
        )
        return (cells + ", ".join(marks)).rstrip()

    def _conclusion(self) -> str:
        best = f"N = {self.replicas} and b = {self.backups}"
        run = "its N changed" if self.run is None else f"N = {self.run[0]} and b = {self.run[1]}"
        sure = f"it is the fastest in {self.confidence:.0%} of the resamples"
        if self.gain is None or self.gain_interval is None or self.lost_by_choice is None:
            return (
                f"Of the {len(self.splits)} splits, {best} would train fastest: {sure}. "
                f"This cannot be compared with the run itself ({run})."
            )
        if (self.replicas, self.backups) == self.run:
            return (
                f"The run's own {best} is the fastest of {len(self.splits)} splits: {sure}. "
                "There is nothing to gain by another choice."
            )
        low, high = self.gain_interval
        return (
            f"With {best}, training would make {self.gain:.1%} more progress per second than with "
            f"the run's {run} ({self.level:.0%} interval: {low:.1%} to {high:.1%}), and {sure}. "
            f"The run lost {self.lost_by_choice:.1f}% of its time by its choice of N and b."
        )


_HEADER = (
    f"{'N':>4}{'b':>4}{'s/update':>11}{'s if fresh':>11}{'gradient/s':>11}"
    f"{'wasted':>8}{'time':>7}{'fastest':>8}"
)


def _known(split: Split) -> bool:
    """Return whether a split has no time: those go to the end."""
    return split.time_to_converge != split.time_to_converge


def _seconds(value: float) -> str:
    return f"{value:.4g}"
