"""A fault: what is done to which task, and when."""

from __future__ import annotations

import dataclasses

ACTIONS = ("kill", "restart", "freeze", "slow", "cut")
RANDOM_ACTIONS = ("kill", "restart", "freeze", "slow")  # By default.
JOBS = ("worker", "ps", "chief")
NETWORK = "network"  # In a target: the process that passes on the traffic of worker `index`.


@dataclasses.dataclass(frozen=True, order=True)
class Target:
    """A task of the cluster.

    Args:
      job: one of JOBS, or NETWORK.
      index: index of the task; 0 for the chief.
    """

    job: str
    index: int = 0

    def __str__(self) -> str:
        """Return the task as it is written in a scenario."""
        return self.job if self.job == "chief" else f"{self.job} {self.index}"


@dataclasses.dataclass(frozen=True)
class Moment:
    """A moment in training.

    Args:
      value: number of updates made, or seconds of training.
      of_steps: whether it is a number of updates.
    """

    value: float
    of_steps: bool

    def __str__(self) -> str:
        """Return the moment as it is written in a scenario."""
        return f"step {self.value:g}" if self.of_steps else f"{self.value:g} s"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault. `freeze`, `slow` and `cut` have an end, as a duration or as a moment.

    Args:
      action: one of ACTIONS. kill: SIGKILL. restart: SIGTERM. freeze: SIGSTOP, later SIGCONT.
        slow: freeze and thaw several times a second. cut: nothing passes between a worker and the
        parameter servers.
      target: the task.
      begin: when it is injected.
      seconds: how long it lasts, in seconds.
      end: moment of its end, with the unit of `begin`.
      factor: how many times slower the task becomes.
    """

    action: str
    target: Target
    begin: Moment
    seconds: float | None = None
    end: Moment | None = None
    factor: float = 1.0

    @property
    def kind(self) -> str:
        """Action and job, by which results are grouped."""
        return f"{self.action} {self.target.job}"

    @property
    def process(self) -> Target:
        """The process that gets the signals."""
        return Target(NETWORK, self.target.index) if self.action == "cut" else self.target

    @property
    def ends_process(self) -> bool:
        """Whether the task's process ends."""
        return self.action in ("kill", "restart")

    @property
    def may_cost_a_restart(self) -> bool:
        """Whether training may have to start again from a checkpoint."""
        return self.target.job != "worker" and (
            self.ends_process or (self.target.job == "ps" and self.action == "freeze")
        )

    def __str__(self) -> str:
        """Return the fault as it is written in a scenario."""
        words = [self.action, str(self.target)]
        if self.action == "slow":
            words.append(f"by {self.factor:g}")
        if self.seconds is not None:
            words.append(f"for {self.seconds:g} s")
        words.append(f"from {self.begin} to {self.end}" if self.end else f"at {self.begin}")
        return " ".join(words)
