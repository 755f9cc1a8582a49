"""Pictures of experiments, drawn from their rows."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.experiments.definition import Experiment, Row


def draw(experiment: Experiment, rows: Sequence[Row], path: str) -> None:
    """Draw an experiment's picture. Equal rows give equal files.

    Args:
      experiment: the experiment.
      rows: its rows.
      path: path of the picture, which ends with .svg or .png.

    Raises:
      ImportError: if matplotlib is not installed.
      OSError: if the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")  # Needs no screen.
    matplotlib.rcParams["svg.hashsalt"] = "tf_backup"
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(9, 4), layout="constrained")
    experiment.draw(figure, rows)
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(experiment.title, fontsize=11)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    pyplot.close(figure)
