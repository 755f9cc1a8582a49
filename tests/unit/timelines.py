"""Timelines of trainings that are made up, for the tests of what reads timelines.

A direct simulation of the gate's rules in plain Python: fast, and independent of the simulator in
`tf_backup.simulation`. All times are drawn with a seed.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from tf_backup.policy import BackupPolicy
from tf_backup.timeline import schema

Draw = Callable[[np.random.Generator], float]
START = 1_700_000_000_000_000  # us since 1970


def timeline(
    durations: Sequence[float | Draw],
    policy: BackupPolicy,
    updates: int,
    *,
    update_s: float = 0.0,
    shared: Draw | None = None,
    give_up: Callable[[np.random.Generator, int, float], float | None] | None = None,
    batch_size: int | None = None,
    run_length: int | None = None,
    seed: int = 0,
) -> schema.Timeline:
    """Return the timeline of a training whose workers take the given times.

    Args:
      durations: for each of the N + b workers, the seconds that a gradient takes: a number, or a
        function that draws one.
      policy: N, b and the bound on staleness.
      updates: number of updates.
      update_s: seconds from the N-th gradient to the next tokens.
      shared: draws a factor for each step, which multiplies the durations of all gradients that
        are begun in it: slowness that workers have in common.
      give_up: returns, for a worker and the duration of its gradient, after how many seconds it is
        given up, or None. It then enters again at once.
      batch_size: number of samples in one gradient.
      run_length: number of updates in a run; None for a single run.
      seed: seed of the draws.
    """
    if len(durations) != policy.workers:
        raise ValueError(f"{len(durations)} durations for {policy.workers} workers.")
    gate = _Gate(durations, policy, update_s, shared, give_up, seed)
    while len(gate.updates) < updates:
        left = updates - len(gate.updates)
        gate.run(min(left, run_length or left))
    return schema.Timeline(
        schema.Settings(
            replicas=policy.replicas,
            backups=policy.backups,
            max_staleness=policy.max_staleness,
            batch_size=batch_size,
        ),
        np.array(gate.rows, schema.CONTRIBUTION),
        np.array(gate.updates, schema.UPDATE),
    )


def one_after_the_other(*parts: schema.Timeline) -> schema.Timeline:
    """Return the timeline of one training that was in each of some ways for a while.

    Its settings are those of the first, as with N that changes from the largest.
    """
    contributions, updates = [], []
    run, step, end = 0, 0, START
    for part in parts:
        rows, made = part.contributions.copy(), part.updates.copy()
        later = end - min(int(rows["began"].min()), int(made["released"].min())) + 1
        for name in ("began", "arrived"):
            rows[name] += later
        for name in ("started", "taken", "applied", "released"):
            made[name] = np.where(made[name] < 0, made[name], made[name] + later)
        rows["step"] = np.where(rows["step"] < 0, rows["step"], rows["step"] + step)
        rows["update"] = np.where(rows["update"] < 0, rows["update"], rows["update"] + step)
        made["step"] += step
        rows["run"] += run
        made["run"] += run
        run, step = int(made["run"].max()), int(made["step"].max()) + 1
        end = int(max(rows["arrived"].max(), made["released"].max()))
        contributions.append(rows)
        updates.append(made)
    return schema.Timeline(
        parts[0].settings, np.concatenate(contributions), np.concatenate(updates)
    )


class _Gate:
    """The gate, the chief's loop and the workers, as one queue of events."""

    def __init__(self, durations, policy, update_s, shared, give_up, seed):
        self.policy = policy
        self.rng = np.random.default_rng(seed)
        self.open, self.last = False, 0
        self.durations = [each if callable(each) else _constant(each) for each in durations]
        self.update_s, self.shared, self.give_up = update_s, shared, give_up
        self.rows, self.updates = [], []
        self.events, self.order = [], itertools.count()
        self.number, self.step, self.now, self.factor = 0, 0, 0.0, 1.0
        self.computing, self.waiting, self.queue = set(), set(), []
        self.next_step()

    def next_step(self):
        self.factor = self.shared(self.rng) if self.shared else 1.0

    def begin(self, worker):
        seconds = self.durations[worker](self.rng) * self.factor
        lost = self.give_up and self.give_up(self.rng, worker, seconds)
        self.computing.add(worker)
        gradient = (worker, self.step, self.now, seconds, bool(lost))
        self.at(self.now + (lost or seconds), self.arrive, gradient)

    def at(self, when, what, *arguments):
        heapq.heappush(self.events, (when, next(self.order), what, arguments))

    def run(self, updates):
        """Make a run of `updates` updates, and wait until all workers are idle again."""
        self.number += 1
        self.last = self.step + updates
        self.open = True
        for worker in range(self.policy.workers):
            self.begin(worker)
        while self.events:  # Once the run is over, what still arrives is stale.
            self.now, _, what, arguments = heapq.heappop(self.events)
            what(*arguments)
        self.waiting = set()

    def arrive(self, gradient):
        worker, step, _, _, lost = gradient
        self.computing.remove(worker)
        queued = len(self.queue)
        staleness = self.step + queued // self.policy.replicas - step
        bound = self.policy.max_staleness
        if lost:
            self.write(gradient, schema.LOST)
        elif self.open and (bound is None or staleness <= bound):
            self.queue.append((*gradient, self.now))
            if queued + 1 == self.policy.replicas:
                self.start_update()
            return
        else:
            late = self.open and step == self.step
            self.write(gradient, schema.LATE if late else schema.STALE)
        if self.open and queued < self.policy.replicas:
            self.begin(worker)
        else:
            self.waiting.add(worker)

    def start_update(self):
        self.at(self.now + self.update_s, self.advance, self.now)

    def advance(self, started):
        replicas = self.policy.replicas
        used, self.queue = self.queue[:replicas], self.queue[replicas:]
        for *gradient, arrived in used:
            self.write(tuple(gradient), schema.ACCEPTED, arrived)
            self.waiting.add(gradient[0])
        times = [_us(started), schema.UNKNOWN, schema.UNKNOWN, _us(self.now)]
        self.updates.append((self.number, self.step, *times))
        self.step += 1
        self.next_step()
        if self.step == self.last:
            self.end()
            return
        ready, self.waiting = sorted(self.waiting), set()
        for worker in ready:
            self.begin(worker)
        if len(self.queue) >= replicas:
            self.start_update()

    def end(self):
        """End the run: gradients that wait for another update are stale."""
        self.open = False
        for *gradient, arrived in self.queue:
            self.write(tuple(gradient), schema.STALE, arrived)
        self.queue = []

    def write(self, gradient, verdict, arrived=None):
        worker, step, began, seconds, lost = gradient
        update = self.step if verdict == schema.ACCEPTED else schema.UNKNOWN
        step = schema.UNKNOWN if lost else step
        compute = schema.UNKNOWN if lost else round(seconds * 1e6)
        times = (_us(began), _us(self.now if arrived is None else arrived), compute)
        self.rows.append((self.number, step, update, worker, worker, verdict, *times))


def _constant(seconds):
    return lambda rng: seconds


def _us(seconds):
    return START + round(seconds * 1e6)
