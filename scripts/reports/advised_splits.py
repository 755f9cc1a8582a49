"""Section with the advice on N and b, and its picture."""

from __future__ import annotations

import math

from matplotlib.ticker import MaxNLocator

from scripts.reports import drawing
from scripts.reports.amounts import NOTHING, number, percent, seconds
from scripts.reports.drawing import INK, Picture, canvas, legend
from scripts.reports.html_blocks import Section, table
from tf_backup.advice.advice import Advice

_ROWS = 16  # Splits in the table.
_FAR = 4.0  # Times the fastest; slower splits would hide the differences that matter.


def advice(found: Advice | str) -> Section:
    """Return the advice, or the reason why there is none."""
    section = Section("advice", "Which N and b would train fastest")
    if isinstance(found, str):
        section.say(f"There is no advice: {found}")
        return section
    section.say(_conclusion(found))
    section.say(
        "For this, the recorded times of the same workers are replayed with every split into N "
        "and b. The time to converge assumes that training needs the same number of samples with "
        "every N; large batches may need more."
    )
    shown = sorted(found.splits, key=lambda each: _order(each.time_to_converge))[:_ROWS]
    rows = [
        [
            f"{each.replicas} + {each.backups}"
            + (" (this run)" if (each.replicas, each.backups) == found.run else ""),
            NOTHING if math.isnan(each.time_to_converge) else f"{each.time_to_converge:.2f}",
            percent(each.confidence),
            seconds(each.seconds_per_update),
            number(each.gradients_per_s),
            percent(each.wasted),
        ]
        for each in sorted(shown, key=lambda each: each.replicas)
    ]
    caption = "Splits of the workers" + (
        f", the {_ROWS} fastest" if len(shown) < len(found.splits) else ""
    )
    header = ["N + b", "time to converge", "fastest in", "time per update", "gradients per s"]
    beside = table(caption, [*header, "not used"], rows)
    section.show(time_to_converge(found), beside=beside)
    section.say(
        "Time to converge is relative to the fastest split. The next column says in how many of "
        "the resampled recordings the split was the fastest: how sure the advice is."
    )
    for text in found.notes:
        section.say(text)
    return section


def _conclusion(found: Advice) -> str:
    best = _named((found.replicas, found.backups))
    run = "in which N changed" if found.run is None else _named(found.run)
    sure = f"It is the fastest in {percent(found.confidence)} of the resampled recordings."
    if (found.replicas, found.backups) == found.run:
        return f"This run's own {best} is the fastest choice for these workers. {sure}"
    if found.gain is None or found.gain_interval is None:
        return f"{best} would train fastest. {sure} This run ({run}) cannot be compared with it."
    low, high = found.gain_interval
    return (
        f"{best} would train fastest: {percent(found.gain)} more progress per second than this "
        f"run's {run} ({percent(found.level)} interval: {percent(low)} to {percent(high)}). {sure}"
    )


def _named(split: tuple[int, int]) -> str:
    return f"N = {split[0]} and b = {split[1]}"


def time_to_converge(found: Advice) -> Picture:
    """Draw the time to converge of each split (the paper's figure 6)."""
    known = [each for each in found.splits if each.time_to_converge <= _FAR]
    title = "Time to converge with each N"
    left_out = len(found.splits) - len(known)
    shows = (
        "Estimated time to converge, relative to the fastest choice of N; all other workers are "
        f"backups. The diamond is the fastest, N = {found.replicas}"
        + (f"; the square is this run, N = {found.run[0]}." if found.run else ".")
        + " (Figure 6 of the paper.)"
        + (f" Choices more than {_FAR:.0f} times as slow are left out." if left_out else "")
    )
    with canvas("advice-picture", title, shows, height=3.1) as drawn:
        axes, colors = drawn.axes, drawing.LINES
        times = {each.replicas: each.time_to_converge for each in known}
        axes.plot(list(times), list(times.values()), color=colors[0], marker="o", ms=4)
        marks = [(found.run[0], "s", "this run", 1)] if found.run else []
        marks.append((found.replicas, "D", "fastest", 2))
        for replicas, marker, label, color in marks:
            if replicas in times:
                style = {"ls": "", "markeredgecolor": INK, "color": colors[color], "ms": 8}
                size = {"ms": 11} if label == "this run" else {}
                axes.plot(
                    [replicas], [times[replicas]], marker=marker, label=label, **{**style, **size}
                )
        axes.set_ylim(0, 1.12 * max(times.values()))
        axes.margins(x=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("N, gradients per update")
        axes.set_ylabel("time to converge (fastest = 1)")
        legend(axes, columns=2)
    return Picture("advice-picture", title, shows, drawn.svg)


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value
