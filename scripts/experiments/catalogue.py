"""The experiments that exist, by name."""

from __future__ import annotations

import importlib
from types import ModuleType

from scripts.experiments.definition import Experiment

NAMES = (
    *("figure2", "figure3", "figure4", "figure5", "figure6", "figure7", "figure8", "figure9"),
    *("table1", "draw", "stability", "backup_sweep", "time_to_accuracy", "time_to_accuracy_real"),
    *("workshop", "auto_replicas", "cluster_sizes"),
)
_MODULES = {"draw": "draw_workers"}  # Others have the experiment's name.


def find(name: str) -> Experiment:
    """Return an experiment by name.

    Raises:
      ValueError: if there is none of that name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no experiment {name!r}, only {', '.join(NAMES)}.")
    found: Experiment = module_of(name).EXPERIMENT
    return found


def module_of(name: str) -> ModuleType:
    """Return the module of an experiment."""
    return importlib.import_module(f"scripts.experiments.{_MODULES.get(name, name)}")


def overview() -> str:
    """Return the names of all experiments and the first line of each, for `--list`."""
    first = {name: (module_of(name).__doc__ or "").partition("\n")[0] for name in NAMES}
    return "\n".join(f"{name:<22} {line}" for name, line in first.items())
