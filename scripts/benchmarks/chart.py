"""Picture of results, drawn from a CSV file."""

from __future__ import annotations

from typing import Any

from scripts.benchmarks import rows, systems_compared
from scripts.benchmarks.summary import Summary

FORMATS = (".svg", ".png", ".pdf")

_OURS, _PEERS, _CEILING = "#1f77b4", "#b0b0b0", "#404040"


def check(path: str) -> None:
    """Check that a picture can be drawn.

    Args:
      path: file name of the picture.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if its format is not known.
    """
    import matplotlib

    del matplotlib
    if not path.endswith(FORMATS):
        raise ValueError(f"--picture is {path!r}; it must end with {' or '.join(FORMATS)}.")


def draw(csv_path: str, path: str) -> None:
    """Draw gradients used per second, with a panel per setting and a bar per system.

    Args:
      csv_path: file name of the CSV file.
      path: file name of the picture, which ends with one of FORMATS.

    Raises:
      ImportError: if matplotlib is not installed.
      OSError: if a file cannot be read or written.
      ValueError: if the benchmark did not write the CSV file.
    """
    import matplotlib

    matplotlib.use("agg")  # Needs no screen.
    matplotlib.rcParams["svg.hashsalt"] = "tf_backup"  # Equal data give equal files.
    from matplotlib import pyplot

    summary = Summary(rows.read(csv_path))
    models = list(dict.fromkeys(setting.model for setting in summary.settings))
    counts = list(dict.fromkeys(setting.ps for setting in summary.settings))
    figure, axes = pyplot.subplots(
        len(models),
        len(counts),
        squeeze=False,
        figsize=(5.5 * len(counts), 0.8 + (0.6 + 0.25 * len(summary.systems)) * len(models)),
        layout="constrained",
    )
    for row in axes:
        for panel in row:
            panel.set_axis_off()
    for setting in summary.settings:
        panel = axes[models.index(setting.model)][counts.index(setting.ps)]
        _draw_setting(panel, summary, setting)
    figure.suptitle("Gradients used per second: median, and range of rounds", fontsize=11)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    pyplot.close(figure)


def _draw_setting(panel: Any, summary: Summary, setting: Any) -> None:
    """Draw a bar for each system."""
    spreads = {
        name: summary.spread(setting, name, lambda row: row.gradients_per_s)
        for name in summary.systems
    }
    found = {name: spread for name, spread in spreads.items() if spread is not None}
    names = list(found)
    medians = [spread.median for spread in found.values()]
    below = [spread.median - spread.low for spread in found.values()]
    above = [spread.high - spread.median for spread in found.values()]
    panel.set_axis_on()
    panel.barh(names, medians, xerr=[below, above], color=[_color(name) for name in names])
    panel.invert_yaxis()
    panel.set_title(str(setting), fontsize=10)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _color(name: str) -> str:
    if name == systems_compared.CEILING:
        return _CEILING
    return _PEERS if name in systems_compared.PEERS else _OURS
