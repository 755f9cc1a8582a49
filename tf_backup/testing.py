"""Artificial stragglers: `3:0.5` makes worker 3 half a second slower per step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Delay:
    """A delay of one worker before each of its batches.

    Args:
      worker: index of the worker.
      seconds: length of the delay in seconds, at least 0.
    """

    worker: int
    seconds: float

    def __post_init__(self) -> None:
        if self.worker < 0:
            raise ValueError(f"worker is {self.worker}; it must be at least 0.")
        if not 0 <= self.seconds < float("inf"):
            raise ValueError(f"seconds is {self.seconds}; it must be at least 0 and finite.")

    @classmethod
    def parse(cls, text: str) -> Delay:
        """Parse `WORKER:SECONDS`.

        Raises:
          ValueError: if `text` has a different form.
        """
        worker, colon, seconds = text.partition(":")
        try:
            if not colon:
                raise ValueError
            numbers = int(worker), float(seconds)
        except ValueError:
            raise ValueError(
                f"delay {text!r} is not of the form WORKER:SECONDS, for instance 3:0.5 for half "
                "a second a step on worker 3."
            ) from None
        return cls(*numbers)


def seconds_by_worker(delays: Iterable[Delay], workers: int) -> list[float]:
    """Return the total delay per batch, in seconds, of each of `workers` workers.

    Raises:
      ValueError: if a delay names a worker that does not exist.
    """
    seconds = [0.0] * workers
    for delay in delays:
        if delay.worker >= workers:
            raise ValueError(
                f"delay names worker {delay.worker}, but the workers are 0 to {workers - 1}."
            )
        seconds[delay.worker] += delay.seconds
    return seconds


def delay(dataset: Any, seconds: float) -> Any:
    """Return `dataset` with each element delayed by `seconds`.

    This simulates a straggler. Apply it last, in the pipeline of the worker to slow down.
    """
    from tf_backup._tf import datasets  # TensorFlow takes seconds to import.

    return datasets.sleep_before_each(dataset, seconds) if seconds > 0 else dataset
