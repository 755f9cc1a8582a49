"""Shares of each worker's time: what it went into."""

from __future__ import annotations

import dataclasses

import numpy as np

from scripts.reports.recording import Floats, Ints, Recording
from tf_backup.timeline.schema import ACCEPTED, VERDICTS


@dataclasses.dataclass(frozen=True)
class WorkShares:
    """Time and gradients of each worker, by what became of them.

    Attributes:
      workers: [workers] indices.
      counts: [workers, verdicts] number of gradients.
      seconds: [workers, verdicts] time from the start on a gradient until it arrived.
      waiting: [workers] seconds in which the worker had nothing to compute, or was away.
    """

    workers: Ints
    counts: Ints
    seconds: Floats
    waiting: Floats

    @classmethod
    def of(cls, recording: Recording) -> WorkShares:
        """Return the shares in a recording."""
        shape = (len(recording.workers), len(VERDICTS))
        cell = recording.worker_of * len(VERDICTS) + recording.contributions["verdict"]
        size = shape[0] * shape[1]
        counts = np.bincount(cell, minlength=size).reshape(shape)
        busy = np.bincount(cell, recording.busy, minlength=size)
        seconds: Floats = np.asarray(busy, np.float64).reshape(shape)
        waiting = np.maximum(recording.seconds - seconds.sum(axis=1), 0.0)
        return cls(recording.workers, counts, seconds, waiting)

    @property
    def of_time(self) -> Floats:
        """[workers, verdicts + 1] shares of each worker's time; the last is waiting."""
        seconds = np.column_stack([self.seconds, self.waiting])
        return np.asarray(seconds / np.maximum(seconds.sum(axis=1, keepdims=True), 1e-9))

    @property
    def of_all_time(self) -> Floats:
        """[verdicts + 1] shares of all workers' time; the last is waiting."""
        seconds = np.append(self.seconds.sum(axis=0), self.waiting.sum())
        return np.asarray(seconds / max(seconds.sum(), 1e-9))

    @property
    def of_gradients(self) -> Floats:
        """[verdicts] shares of all gradients."""
        return np.asarray(self.counts.sum(axis=0) / max(self.counts.sum(), 1))

    @property
    def unused(self) -> Floats:
        """[workers] share of the worker's gradients that no update used."""
        return np.asarray(1 - self.counts[:, ACCEPTED] / np.maximum(self.counts.sum(axis=1), 1))
