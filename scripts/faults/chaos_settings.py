"""Settings of scripts/chaos.py: which faults to inject into which training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from scripts.faults import random_faults, scenario
from scripts.faults.fault import ACTIONS, JOBS, Fault, Target
from scripts.faults.judgement import Judge

_STEP_S = 3.0  # In --max_pause_s.
_SPEED = 0.7  # Of --min_speed.
_LEAST_UPDATES = 300
_PER_EPOCH = 200  # Updates between two validations.
_SPARE = 1.2  # Part of the updates that random and timed faults need, for a fast machine.


@dataclasses.dataclass(frozen=True)
class ChaosSettings:
    """Values of the flags, by their names; None if a flag without a default is not given.

    Raises:
      ValueError: if one is wrong; says the flag, its value and the rule.
    """

    fault: Sequence[str]
    random_faults: int
    mean_seconds_between_faults: float
    random_actions: Sequence[str]
    random_jobs: Sequence[str]
    seed: int
    model: str
    replicas: int
    backups: int
    ps_tasks: int
    on_shortage: str | None
    updates: int | None
    step_s: float
    log_dir: str | None
    checkpoint_s: float
    worker_timeout_s: float
    server_timeout_s: float
    max_pause_s: float | None
    max_restart_s: float
    min_speed: float | None
    tolerance: float
    baseline: bool
    csv: str | None

    def __post_init__(self) -> None:
        for name in ("mean_seconds_between_faults", "max_pause_s", "max_restart_s", "checkpoint_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name} is {value}; it must be above 0 and finite.")
        leasts = {"step_s": 0.0, "min_speed": 0.0, "tolerance": 0.0}
        leasts |= {"worker_timeout_s": 2.0, "server_timeout_s": 1.0}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"--{name} is {value}; it must be at least {least:g} and finite.")
        for name, known in (("random_actions", ACTIONS), ("random_jobs", JOBS)):
            for each in getattr(self, name):
                if each not in known:
                    raise ValueError(
                        f"--{name} has {each!r}; it must be some of {', '.join(known)}, separated "
                        "by commas."
                    )

        if "cut" in self.random_actions and {*self.random_jobs} != {"worker"}:
            raise ValueError(
                f"--random_actions has 'cut' and --random_jobs has {','.join(self.random_jobs)}, "
                "but only networks of workers can be cut. Give --random_jobs=worker."
            )

    @property
    def workers(self) -> int:
        """Number of workers, N + b."""
        return self.replicas + self.backups

    @property
    def judge(self) -> Judge:
        """What training has to keep to."""
        pause_s = self.max_pause_s or self.worker_timeout_s + _STEP_S
        speed = self.min_speed
        if speed is None:  # Other faults may cost a short run any part of its speed.
            speed = _SPEED if self.backups and self._only_random_workers else 0.0
        shrinks = self.on_shortage == "shrink"
        return Judge(pause_s, self.max_restart_s, shrinks, speed, self.tolerance)

    @property
    def _cuts_networks(self) -> bool:
        named = [scenario.parse(text).action for text in self.fault]
        return "cut" in (*named, *(self.random_actions if self.random_faults else ()))

    @property
    def _only_random_workers(self) -> bool:
        return bool(self.random_faults and not self.fault and [*self.random_jobs] == ["worker"])

    def planned(self) -> list[Fault]:
        """Return the faults to inject, in the order of the flags.

        Raises:
          ValueError: if a fault is not one, or there is none.
        """
        faults = [scenario.parse(text) for text in self.fault]
        if self.random_faults:
            counts = {"worker": self.workers, "ps": self.ps_tasks, "chief": 1}
            faults += random_faults.draw(
                self.random_faults,
                self.mean_seconds_between_faults,
                self.seed,
                [Target(job, index) for job in self.random_jobs for index in range(counts[job])],
                self.random_actions,
                self.backups,
            )
        if not faults:
            raise ValueError("there is no fault to inject. Give --fault or --random_faults.")
        return faults

    def updates_for(self, faults: Sequence[Fault]) -> int:
        """Return --updates, or else a number that leaves time for all faults."""
        if self.updates is not None:
            return self.updates
        last = {True: 0.0, False: 0.0}  # By whether they are steps.
        for fault in faults:
            moment = fault.end or fault.begin
            more = fault.seconds or 0.0
            last[moment.of_steps] = max(last[moment.of_steps], moment.value + more)
        if last[False] and not self.step_s:
            raise ValueError(
                f"--step_s is 0, so nobody knows how many updates {last[False]:g} s need. Give "
                "--updates."
            )
        timed = _SPARE * last[False] / self.step_s if last[False] else 0.0
        return max(_LEAST_UPDATES, math.ceil(timed), math.ceil(1.5 * last[True]))

    def training_flags(self, updates: int, log_dir: str | None) -> list[str]:
        """Return the flags of train.py; the same with faults and without."""
        names = ("model", "replicas", "backups", "ps_tasks", "seed", "worker_timeout_s")
        result = [f"--{name}={getattr(self, name)}" for name in (*names, "server_timeout_s")]
        result += [f"--updates={updates}", f"--updates_per_epoch={min(updates, _PER_EPOCH)}"]
        result += ["--worker_restarts=1000000", "--restarts=10"]
        if self._cuts_networks:
            result.append("--cuttable_network")
        if self.on_shortage is not None:
            result.append(f"--on_shortage={self.on_shortage}")
        if self.step_s:
            result += [f"--delay={worker}:{self.step_s}" for worker in range(self.workers)]
        if log_dir is not None:
            result += [f"--log_dir={log_dir}", f"--checkpoint_minutes={self.checkpoint_s / 60}"]
        return result
