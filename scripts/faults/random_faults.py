"""Random faults, by a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from scripts.faults.fault import Fault, Moment, Target

BACK_S = 6.0  # Time after which a worker that was killed, or given up, is certain to be back.
FREEZE_S = (0.5, 8.0)  # Shortest and longest; also of a cut.
SLOW_S = (2.0, 10.0)
FACTORS = (2.0, 4.0, 8.0)
_FIRST_S = 2.0


def draw(
    count: int,
    mean_s: float,
    seed: int,
    targets: Sequence[Target],
    actions: Sequence[str],
    backups: int,
) -> list[Fault]:
    """Return random faults, in the order of their times.

    The times between them are exponential. At most `backups` workers, but at least one, are
    disturbed at the same time, since training may stand otherwise: a fault that would disturb
    another one is put off until one is back. The same arguments give the same faults.

    Args:
      count: number of faults.
      mean_s: mean time between two of them, in seconds.
      seed: seed.
      targets: tasks to choose from.
      actions: actions to choose from.
      backups: b.
    """
    rng = random.Random(seed)
    busy: dict[Target, float] = {}  # Until when each worker is disturbed.
    faults: list[Fault] = []
    now = _FIRST_S
    for _ in range(count):
        now += rng.expovariate(1.0 / mean_s)
        disturbed = sorted(until for until in busy.values() if until > now)
        if len(disturbed) >= max(1, backups):
            now = disturbed[-max(1, backups)]
        free = [target for target in targets if busy.get(target, 0.0) <= now]
        if not free:
            now = min(busy[target] for target in targets)
            free = [target for target in targets if busy[target] <= now]
        now = math.ceil(now * 10) / 10
        fault = _draw_one(rng, now, rng.choice(free), rng.choice(actions))
        faults.append(fault)
        if fault.target.job == "worker":
            busy[fault.target] = now + (fault.seconds or 0.0) + BACK_S * (fault.action != "slow")
    return faults


def _draw_one(rng: random.Random, at_s: float, target: Target, action: str) -> Fault:
    begin = Moment(at_s, of_steps=False)
    if action in ("freeze", "cut"):
        return Fault(action, target, begin, seconds=round(rng.uniform(*FREEZE_S), 1))
    if action == "slow":
        seconds, factor = round(rng.uniform(*SLOW_S), 1), rng.choice(FACTORS)
        return Fault(action, target, begin, seconds=seconds, factor=factor)
    return Fault(action, target, begin)
