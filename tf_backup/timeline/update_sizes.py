"""Number of gradients that each update used: N, which `replicas="auto"` and shortages change."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tf_backup.timeline.schema import ACCEPTED, Rows, Timeline, step_keys

_NEARLY_ALL = 0.95  # Share of the updates that have the usual N in a training whose N is fixed.


@dataclasses.dataclass(frozen=True, eq=False)
class UpdateSizes:
    """Numbers of gradients that updates used.

    Attributes:
      each: [updates] int64, the number for each update; 0 if rows are missing.
      usual: the most common number; the settings' N if none is known.
    """

    each: Rows
    usual: int

    @classmethod
    def of(cls, timeline: Timeline) -> UpdateSizes:
        """Return the sizes of a timeline's updates."""
        updates, rows = timeline.updates, timeline.contributions
        used = rows[rows["verdict"] == ACCEPTED]
        # Sessions that are read together may repeat steps.
        keys, inverse, times = np.unique(
            step_keys(updates["run"], updates["step"]), return_inverse=True, return_counts=True
        )
        wanted = step_keys(used["run"], used["update"])
        at = np.searchsorted(keys, wanted[np.isin(wanted, keys)])
        each = (np.bincount(at, minlength=len(keys)) // times)[inverse]
        return cls(each, _most_common(each, timeline.settings.replicas))

    @property
    def known(self) -> Rows:
        """[updates] int64, the number for each update; the usual one if rows are missing."""
        return np.where(self.each > 0, self.each, self.usual)

    @property
    def fixed(self) -> bool:
        """Whether nearly all updates used the same number of gradients."""
        return bool(np.mean(self.known == self.usual) >= _NEARLY_ALL)

    @property
    def mean(self) -> float:
        """Mean number of gradients in an update."""
        return float(np.mean(self.known))

    def __getitem__(self, updates: Any) -> UpdateSizes:
        """Return the sizes of some updates; the usual one is that of these."""
        each = self.each[updates]
        return UpdateSizes(each, _most_common(each, self.usual))

    def __str__(self) -> str:
        """Return N, or from where to where it went."""
        least, most = int(self.known.min()), int(self.known.max())
        return f"{self.usual:,}" if self.fixed else f"{least:,} to {most:,}"


def _most_common(sizes: Rows, otherwise: int) -> int:
    """Return the most common size; `otherwise` if none is known."""
    counts = np.bincount(sizes[sizes > 0])
    return int(counts.argmax()) if len(counts) else otherwise
