"""A scripted training, as a timeline: who takes how long is given, the rest follows."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from tf_backup.timeline.schema import (
    ACCEPTED,
    CONTRIBUTION,
    LATE,
    STALE,
    UNKNOWN,
    UPDATE,
    Settings,
    Timeline,
)

BEGINNING_US = 1_700_000_000_000_000


def trained(
    seconds: Callable[[int, int], float],
    replicas: int,
    backups: int = 0,
    updates: int = 10,
    update_s: float = 0.0,
    runs: int = 1,
    pause_s: float = 5.0,
    **settings: object,
) -> Timeline:
    """Return the timeline of a synchronous training.

    Args:
      seconds: time that a worker takes for its n-th gradient, from 0.
      replicas: N.
      backups: b.
      updates: number of updates in all.
      update_s: time from the N-th gradient to the release.
      runs: number of runs of equal length, with pauses between them.
      pause_s: length of a pause.
      settings: more settings.
    """
    workers = range(replicas + backups)
    done = [0] * len(workers)
    contributions: list[tuple[int, ...]] = []
    made: list[tuple[int, ...]] = []
    now, step = 0.0, 0
    for run in range(1, runs + 1):
        end = updates * run // runs
        events: list[tuple[float, int, float, int]] = []  # Arrival, worker, start, step.

        def begin(worker: int, at: float, step: int) -> None:
            took = seconds(worker, done[worker])
            done[worker] += 1
            heapq.heappush(events, (at + took, worker, at, step))  # noqa: B023

        for worker in workers:
            begin(worker, now, step)
        waiting: list[int] = []
        used: list[tuple[float, int, float, int]] = []
        while step < end or events:
            release = used[-1][0] + update_s if len(used) == replicas else float("inf")
            if step < end and (not events or release < events[0][0]):
                for arrived, worker, began, of in used:
                    contributions.append(_row(run, of, step, worker, ACCEPTED, began, arrived))
                made.append((run, step, *map(us, (used[-1][0], used[-1][0], release, release))))
                step, now = step + 1, release
                idle, used, waiting = [*(each[1] for each in used), *waiting], [], []
                for worker in idle if step < end else []:
                    begin(worker, now, step)
                continue
            arrived, worker, began, of = heapq.heappop(events)
            if of == step and len(used) < replicas:
                used.append((arrived, worker, began, of))
                continue
            verdict = LATE if of == step and step < end else STALE
            contributions.append(_row(run, of, UNKNOWN, worker, verdict, began, arrived))
            if verdict == STALE and len(used) < replicas and step < end:
                begin(worker, arrived, step)
            else:
                waiting.append(worker)
        now += pause_s
    return Timeline(
        Settings(replicas=replicas, backups=backups, **settings),  # type: ignore[arg-type]
        np.array(contributions, CONTRIBUTION),
        np.array(made, UPDATE),
    )


def trained_long(replicas: int, backups: int, updates: int, session: str) -> Timeline:
    """Return the timeline of a long training, at random; all workers are free in every step.

    A late gradient arrives before its update is released. The last worker is slow.
    """
    workers, update_us = replicas + backups, 20_000
    rng = np.random.default_rng(0)
    took = rng.lognormal(np.log(150_000), 0.25, [updates, workers]).astype(np.int64)
    took[:, -1] *= 2
    order = np.argsort(took, axis=1)
    nth = np.take_along_axis(took, order[:, replicas - 1 : replicas], axis=1)
    took = np.minimum(took, nth + update_us // 2)
    released = BEGINNING_US + np.cumsum(nth[:, 0] + update_us)
    begun = np.concatenate([[BEGINNING_US], released[:-1]])
    rows, made = np.zeros([updates, workers], CONTRIBUTION), np.zeros(updates, UPDATE)
    rows["run"] = made["run"] = 1
    rows["step"] = np.arange(updates)[:, None]
    rows["worker"] = rows["place"] = order
    rows["verdict"] = np.where(np.arange(workers) < replicas, ACCEPTED, LATE)
    rows["update"] = np.where(rows["verdict"] == ACCEPTED, rows["step"], UNKNOWN)
    rows["began"] = begun[:, None]
    rows["arrived"] = begun[:, None] + np.take_along_axis(took, order, axis=1)
    rows["compute"] = (rows["arrived"] - rows["began"]) * 9 // 10
    made["step"] = np.arange(updates)
    made["started"] = made["taken"] = begun + nth[:, 0]
    made["applied"] = made["released"] = released
    settings = Settings(replicas, backups, batch_size=32, model="net", session=session)
    return Timeline(settings, rows.reshape(-1), made)


def us(seconds: float) -> int:
    """Return a time of the gate's clock."""
    return BEGINNING_US + round(seconds * 1e6)


def _row(
    run: int, step: int, update: int, worker: int, verdict: int, began: float, arrived: float
) -> tuple[int, ...]:
    compute = round((arrived - began) * 0.9e6)
    return run, step, update, worker, worker, verdict, us(began), us(arrived), compute
