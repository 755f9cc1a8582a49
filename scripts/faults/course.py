"""Course of a training run: its starts and updates, and when they were made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass
class Start:
    """A start of training, from the beginning or from a checkpoint.

    Attributes:
      time: when it was.
      after: number of updates made before.
      times: when each update since then was made.
      validations: numbers of updates after which validations were.
    """

    time: float
    after: int
    times: list[float] = dataclasses.field(default_factory=list)
    validations: set[int] = dataclasses.field(default_factory=set)

    @property
    def made(self) -> int:
        """Number of updates made, those before the start included."""
        return self.after + len(self.times)


@dataclasses.dataclass(frozen=True)
class Pause:
    """Time between two consecutive updates.

    Attributes:
      begin: time of the update before.
      end: time of the update after.
      made: number of updates before.
      restarts: whether training was started again in between.
      validates: whether there was a validation in between.
    """

    begin: float
    end: float
    made: int
    restarts: bool
    validates: bool

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.end - self.begin


class Course:
    """What the update log of a training run tells, in order. Times are in seconds.

    Attributes:
      starts: the starts so far.
    """

    def __init__(self) -> None:
        self.starts: list[Start] = []

    def note(self, record: Mapping[str, Any]) -> None:
        """Add a line of the update log; see `scripts/training/update_log.py`."""
        if "start" in record:
            self.starts.append(Start(record["time"], record["start"]))
        elif "update" in record:
            self.starts[-1].times.append(record["time"])
        elif "validation" in record:
            self.starts[-1].validations.add(record["validation"])

    @property
    def trains(self) -> bool:
        """Whether an update has been made since the last start."""
        return bool(self.starts and self.starts[-1].times)

    @property
    def made(self) -> int:
        """Number of updates made."""
        return self.starts[-1].made if self.starts else 0

    @property
    def last_s(self) -> float | None:
        """Time of the last update; None if there is none."""
        return max((each.times[-1] for each in self.starts if each.times), default=None)

    @property
    def seconds(self) -> float:
        """Time from the first update to the last one."""
        first = min((each.times[0] for each in self.starts if each.times), default=0.0)
        return (self.last_s or first) - first

    @property
    def updates_per_s(self) -> float:
        """Updates per second, repeated ones counted once."""
        return (self.made - 1) / self.seconds if self.seconds else 0.0

    def trained_s(self, now: float | None = None) -> float:
        """Return how long training has run, without the times between its starts.

        Args:
          now: the time, if training runs now.
        """
        spans = [each.times[-1] - each.times[0] for each in self.starts if each.times]
        if now is not None and self.trains:
            spans[-1] = now - self.starts[-1].times[0]
        return sum(spans)

    def lost(self, start: int) -> int:
        """Return how many updates had been made before a start, and were made again after it."""
        return max(0, self.starts[start - 1].made - self.starts[start].after) if start else 0

    def pauses(self) -> Iterator[Pause]:
        """Yield the times between consecutive updates, across starts."""
        before: float | None = None
        made = 0  # Updates made before the pause.
        for start in self.starts:
            restarts = before is not None
            for time in start.times:
                if before is not None:
                    yield Pause(before, time, made, restarts, made in start.validations)
                before, restarts = time, False
                made += 1
            made = start.made
