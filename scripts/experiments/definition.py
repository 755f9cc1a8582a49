"""Parts of an experiment: settings by scale, points to measure, claims, and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripts.experiments.claims import Claim

Row = dict[str, Any]
Point = Mapping[str, Any]  # What is varied, without the seed: names of columns, and values.
Tick = Callable[[float], None]

TINY, SMALL, PAPER = "tiny", "small", "paper"
SCALES = (TINY, SMALL, PAPER)


@dataclasses.dataclass(frozen=True)
class Job:
    """A training of the paper that needs a cluster, as flags of scripts/train.py.

    Attributes:
      model: name of the model.
      flags: other flags; the rest is the model's paper recipe.
    """

    model: str
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command that each task of the job runs."""
        more = "".join(f" --{name}={value}" for name, value in self.flags.items())
        return f"python scripts/train.py --model={self.model} --recipe=paper{more}"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
      name: the name in the command, and of the CSV file, the picture and the rows of the table.
      title: title of the picture.
      settings: a frozen dataclass for each scale that runs in one process. `tiny` only shows that
        the experiment works.
      seeds: seeds that are used by default.
      points: returns the points that are measured with each seed.
      measure: measures one point with (settings, point, seed, data_dir, tick), and returns its
        rows, which have no columns of the point. `tick` is called with the part that is done.
      claims: returns what the rows say about the paper's claims.
      draw: draws rows into a matplotlib figure.
      jobs: trainings of the paper's scale, if it is not among the settings.
      prepare: called with (settings, data_dir, intra-op threads) before the first point; it loads
        data. None for experiments without data.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    points: Callable[[Any], list[Point]]
    measure: Callable[[Any, Point, int, str | None, Tick], list[Row]]
    claims: Callable[[Sequence[Row]], list[Claim]]
    draw: Callable[[Any, Sequence[Row]], None]
    jobs: tuple[Job, ...] = ()
    prepare: Callable[[Any, str | None, int], Any] | None = None

    def at(self, scale: str) -> Any:
        """Return the settings of a scale.

        Raises:
          ValueError: if it needs a cluster.
        """
        if scale in self.settings:
            return self.settings[scale]
        commands = "; ".join(job.command for job in self.jobs)
        raise ValueError(
            f"{self.name} has no scale {scale!r} in one process: the paper's needs a cluster with "
            f"a GPU per worker, where each task runs (see k8s/README.md): {commands}."
        )
