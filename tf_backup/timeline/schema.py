"""Rows of a timeline: one for each gradient that a worker computed, and one for each update.

All times are of one clock, that of the first parameter server, in microseconds since 1970. Only
`compute` is measured by the worker's own clock, and it is a duration. So clocks of different
machines are never compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Rows = np.ndarray[Any, np.dtype[Any]]  # A structured array, of CONTRIBUTION or UPDATE.

_RUN_SHIFT = 40  # Bits of a step in the key (run, step).

UNKNOWN = -1  # What is not known, or does not apply.

# What became of a gradient: `verdict` is an index into this.
VERDICTS = ("accepted", "late", "stale", "duplicate", "nonfinite", "lost")
ACCEPTED, LATE, STALE, DUPLICATE, NONFINITE, LOST = range(len(VERDICTS))

CONTRIBUTION = np.dtype(
    [
        ("run", np.int32),  # Number of the run: fit begins one per epoch.
        ("step", np.int64),  # t: it was computed at theta(t). UNKNOWN if lost.
        ("update", np.int64),  # Step whose update used it; UNKNOWN unless accepted.
        ("worker", np.int32),  # Index of the worker.
        ("place", np.int32),  # Its place among the N + b, below N + b.
        ("verdict", np.int8),
        ("began", np.int64),  # us; the worker was told to compute it.
        ("arrived", np.int64),  # us; it was offered at the gate, or given up if lost.
        # us, a duration by the worker's clock, with waits for data and for parameters that are
        # still on their way. UNKNOWN if lost.
        ("compute", np.int64),
    ]
)

UPDATE = np.dtype(
    [
        ("run", np.int32),
        ("step", np.int64),  # t, before the update.
        # us; the chief's loop has been told of the N gradients, has taken them, and the optimizer
        # has run. All three are UNKNOWN with several parameter servers.
        ("started", np.int64),
        ("taken", np.int64),
        ("applied", np.int64),
        ("released", np.int64),  # us; theta(t + 1) is published, and waiting workers are told.
    ]
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the training that a timeline is of.

    Attributes:
      replicas: N, the number of gradients averaged in one update; the largest if it changes. See
        `update_sizes` for that of each update.
      backups: b, the number of workers beyond N.
      max_staleness: the bound on staleness; None for no bound, 0 for synchronous training.
      parameter_servers: number of parameter servers.
      batch_size: number of samples in one gradient; None if unknown.
      model: name of the model.
      session: unique name of the process that trained; a restarted training has several.
      versions: versions of tf_backup, tensorflow, keras and python.
    """

    replicas: int
    backups: int = 0
    max_staleness: int | None = 0
    parameter_servers: int = 1
    batch_size: int | None = None
    model: str = ""
    session: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def workers(self) -> int:
        """N + b, the number of workers that compute gradients."""
        return self.replicas + self.backups


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Timeline of a training, in the order in which things happened.

    Attributes:
      settings: settings of the training.
      contributions: rows of CONTRIBUTION, one per gradient, by when its fate was known.
      updates: rows of UPDATE, by step.
      notes: what a reader should know, such as rows that are missing.
    """

    settings: Settings
    contributions: Rows
    updates: Rows
    notes: tuple[str, ...] = ()

    @property
    def staleness(self) -> Rows:
        """[accepted] int64, the staleness of each accepted gradient, in updates."""
        used = self.contributions[self.contributions["verdict"] == ACCEPTED]
        staleness: Rows = used["update"] - used["step"]
        return staleness

    @property
    def update_seconds(self) -> Rows:
        """[updates] float64, the time that each update took once its N gradients were there.

        From the arrival of the last of them, or the release of the update before if that was
        later, to its own release.
        """
        used = self.contributions[self.contributions["verdict"] == ACCEPTED]
        arrived = np.zeros(len(self.updates), np.int64)
        known = np.isin(used["update"], self.updates["step"])
        index = np.searchsorted(self.updates["step"], used["update"][known])
        np.maximum.at(arrived, index, used["arrived"][known])
        before = np.concatenate([[0], self.updates["released"][:-1]])
        seconds: Rows = (self.updates["released"] - np.maximum(arrived, before)) / 1e6
        return seconds

    def counts(self) -> dict[str, int]:
        """Return the number of contributions, as `computed`, and that of each verdict."""
        counts = np.bincount(self.contributions["verdict"], minlength=len(VERDICTS))
        return {"computed": int(counts.sum()), **dict(zip(VERDICTS, counts.tolist(), strict=True))}


def step_keys(runs: Any, steps: Any) -> Rows:
    """Return [n] int64 that order (run, step), for matching gradients and updates."""
    keys: Rows = (np.asarray(runs, np.int64) << _RUN_SHIFT) + np.asarray(steps, np.int64)
    return keys
