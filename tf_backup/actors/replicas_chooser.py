"""Choice of N while training goes on, for `replicas="auto"`."""

from __future__ import annotations

import logging
import math
from collections import deque

import numpy as np

from tf_backup.advice.replay import replay
from tf_backup.policy import BackupPolicy
from tf_backup.timeline.schema import DUPLICATE, LOST, NONFINITE, Rows, Settings, Timeline

log = logging.getLogger(__name__)

_KEPT = 64  # Gradients of each worker, and updates, that a choice is based on.
_LEAST_KEPT = 8  # Fewer are not enough for a choice.
# Between two choices, at least. With 32 updates, N followed so late that a training of 24 s used
# 0.59 times the gradients of the best fixed split. More choices a second cost the chief time.
_UPDATES, _SECONDS = 8, 1.0
_GAIN = 0.05  # How much faster another N has to be.
_ROWS = 256  # Steps that are replayed.


class ReplicasChooser:
    """Chooses N so that most gradients are used per second, from the times of recent gradients.

    The recent steps are replayed under the gate's rules for every N between the bounds. N moves by
    one at a time (in large clusters, by a few), and only after two choices in a row have found
    another N at least 5% faster. So a single slow step changes nothing.

    Args:
      policy: a policy whose `least` is the lower bound, and whose `replicas` the upper one.
    """

    def __init__(self, policy: BackupPolicy) -> None:
        self._policy = policy
        self._seconds: list[deque[float]] = [deque(maxlen=_KEPT) for _ in range(policy.workers)]
        self._arrived = [0] * policy.workers  # us; the last arrival at each place,
        self._began = [0] * policy.workers  # and the release after it, when the next one began.
        self._update_s: deque[float] = deque(maxlen=_KEPT)
        self._updates = 0
        self._chosen_us = 0  # When N was last chosen, whether it changed or not.
        self._now = 0
        self._wish = 0  # The direction that the last choice wished for: -1, 0 or 1.
        self._rng = np.random.default_rng(0)
        self.replicas = policy.replicas

    def note(self, contributions: Rows, updates: Rows) -> None:
        """Take rows of the timeline into account, and choose if there are enough new ones."""
        for row in contributions:
            if row["verdict"] not in (LOST, DUPLICATE, NONFINITE):
                self._seconds[row["place"]].append(float(row["arrived"] - row["began"]) / 1e6)
                self._arrived[row["place"]] = int(row["arrived"])
                self._began[row["place"]] = 0
        if not len(updates):
            return
        self._now = int(updates["released"][-1])
        for place, arrived in enumerate(self._arrived):
            after = np.searchsorted(updates["released"], arrived)
            if not self._began[place] and after < len(updates):
                self._began[place] = int(updates["released"][after])
        timeline = Timeline(Settings(self._policy.replicas), contributions, updates)
        self._update_s.extend(timeline.update_seconds.tolist())
        self._updates += len(updates)
        if self._updates >= _UPDATES and self._now - self._chosen_us >= _SECONDS * 1e6:
            self._updates, self._chosen_us = 0, self._now
            self._choose()

    def speeds(self) -> dict[int, float] | None:
        """Return the gradients used per second for each N; None if too little is known."""
        known = [len(seconds) >= _LEAST_KEPT for seconds in self._seconds]
        if sum(known) < self._policy.least or len(self._update_s) < _LEAST_KEPT:
            return None
        columns = [self._column(place) for place in range(self._policy.workers)]
        update_s = max(0.0, float(np.median(self._update_s)))
        seconds = replay(np.stack(columns, axis=1), update_s).seconds.mean(axis=(0, 1))
        return {
            n: n / float(seconds[n - 1])
            for n in range(self._policy.least, self._policy.replicas + 1)
        }

    def _column(self, place: int) -> Rows:
        """Return how long the gradients of a place take, drawn from the recent ones ([rows]).

        A place that nobody has ever worked at takes for ever.
        """
        seconds = np.array(self._seconds[place] or [math.inf])
        if self._began[place]:
            computing = (self._now - self._began[place]) / 1e6
            if computing > seconds.max():  # It has died, or has become slow.
                seconds = np.array([computing])
        return self._rng.choice(np.minimum(seconds, 1e6), _ROWS)

    def _choose(self) -> None:
        speeds = self.speeds()
        if speeds is None:
            return
        best = max(speeds, key=lambda n: speeds[n])
        gain = speeds[best] / speeds[self.replicas] - 1
        wish = int(np.sign(best - self.replicas)) if gain >= _GAIN else 0
        if wish and wish == self._wish:
            step = max(1, abs(best - self.replicas) // 4)
            before, self.replicas = self.replicas, self.replicas + wish * step
            log.info(
                "An update is the mean of %d gradients from now on, instead of %d: about %.0f%% "
                "more gradients are used per second.",
                self.replicas,
                before,
                100 * (speeds[self.replicas] / speeds[before] - 1),
            )
            wish = 0
        self._wish = wish
