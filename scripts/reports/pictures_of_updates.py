"""Pictures over updates and time: arrivals, a few updates from close by, speed."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from scripts.reports import drawing
from scripts.reports.amounts import count, number, percent, seconds, unit_for
from scripts.reports.arrivals_by_rank import ArrivalsByRank
from scripts.reports.drawing import INK, LOOKS, Picture, canvas, legend
from scripts.reports.recording import Recording
from scripts.reports.shown_updates import Window
from scripts.reports.speed_over_time import SpeedOverTime
from tf_backup.timeline.schema import VERDICTS

MOST_ROWS = 32  # Workers in a picture.


def distribution(arrivals: ArrivalsByRank) -> Picture:
    """Draw how likely the k-th gradient is there after some time (the paper's figure 3)."""
    ks = [k for k in arrivals.shown_ranks() if len(arrivals.curve(k)[0])]
    finite = [arrivals.curve(k)[0] for k in ks]
    limit = max(
        float(np.quantile(times, 0.99 if k <= arrivals.replicas else 0.9))
        for k, times in zip(ks, finite, strict=True)
    )
    unit = unit_for(limit)
    replicas, worst = arrivals.replicas, max(float(times[-1]) for times in finite)
    median = arrivals.quantile(0.5)
    shows = (
        f"Of {count(arrivals.steps, 'step')}, the share whose k-th gradient had arrived after some "
        f"time. Half of the steps had their first gradient after {seconds(median[0])}, and the "
        f"{replicas} that the update needs after {seconds(median[replicas - 1])}. "
        f"The longest time was {seconds(worst)}"
        + (", beyond the right edge. " if worst > 1.05 * limit else ". ")
        + "A line that ends below 100 % is of a gradient that some steps never got, because a "
        "worker was still busy with an older one. (Figure 3 of the paper.)"
    )
    title = "How soon the k-th gradient arrives"
    with canvas("arrivals-distribution", title, shows, height=3.4) as drawn:
        styles = iter(zip(drawing.LINES[1:], drawing.DASHES[1:], strict=True))
        for k in ks:
            times, share = arrivals.curve(k)
            x = np.concatenate([[0, times[0]], times]) / unit.seconds
            y = np.concatenate([[0, 0], 100 * share])
            label = f"k = {k}" + (" = N" if k == replicas else "")
            width = 2.6 if k == replicas else 1.6
            color, dashes = (drawing.LINES[0], "-") if k == replicas else next(styles)
            drawn.axes.plot(x, y, color=color, ls=dashes, lw=width, label=label)
        drawn.axes.set_xlim(0, 1.05 * limit / unit.seconds)
        drawn.axes.set_ylim(0, 102)
        drawn.axes.set_xlabel(f"time since the start of the step ({unit.name})")
        drawn.axes.set_ylabel("share of steps (%)")
        legend(drawn.axes, columns=4)
    return Picture("arrivals-distribution", title, shows, drawn.svg)


def by_rank(arrivals: ArrivalsByRank) -> Picture:
    """Draw the mean and median time of the k-th gradient (the paper's figure 4)."""
    median, mean, high = arrivals.quantile(0.5), arrivals.mean, arrivals.quantile(0.9)
    shown = np.where(np.isfinite(high), high, 0)
    unit = unit_for(float(max(np.nanmax(mean), shown.max())))
    replicas = arrivals.replicas
    last = mean[replicas - 1] - mean[(replicas - 1) // 2]
    shows = (
        f"Mean and median time until the k-th gradient of a step. On average, the last of the "
        f"N came {seconds(last)} after the middle one. "
        "The 90 % line is the time within which 90 % of the steps had it. Where it is missing, "
        "more than 10 % of the steps never got that gradient; a mean is over those that did. "
        "(Figure 4 of the paper.)"
    )
    title = "Waiting for one more gradient"
    markers = "o" if len(median) <= 24 else ""
    with canvas("arrivals-by-rank", title, shows, height=3.4) as drawn:
        axes = drawn.axes
        lines = ((high, "90 %", ":", "^"), (mean, "mean", "--", "s"), (median, "median", "-", "o"))
        for (values, label, dashes, marker), color in zip(lines, drawing.LINES[::2], strict=False):
            known = np.isfinite(values)
            axes.plot(
                arrivals.ranks[known],
                values[known] / unit.seconds,
                color=color,
                ls=dashes,
                marker=marker if markers else "",
                ms=5,
                label=label,
            )
        axes.axvline(replicas, color=INK, lw=0.8, alpha=0.6)
        axes.annotate(
            f"N = {replicas} ",
            (replicas, 1),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="top",
        )
        axes.set_ylim(bottom=0)
        axes.margins(x=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("k, the order of arrival")
        axes.set_ylabel(f"time since the start of the step ({unit.name})")
        legend(axes, columns=3)
    return Picture("arrivals-by-rank", title, shows, drawn.svg)


def close_by(recording: Recording, window: Window, name: str, title: str, lead: str) -> Picture:
    """Draw what each worker did during some updates, with a row per worker."""
    rows = _busiest(recording, window)
    unit = unit_for(window.end - window.begin)
    steps = recording.updates["step"][[window.first, window.last]] + 1
    span = (
        f"update {steps[0]:,}"
        if window.first == window.last
        else f"updates {steps[0]:,} to {steps[1]:,}"
    )
    some = (
        f" {MOST_ROWS} of {len(recording.workers)} workers are shown."
        if rows.size < len(recording.workers)
        else ""
    )
    shows = (
        f"{lead} ({span}, {seconds(window.end - window.begin)}). A bar is a gradient, from its "
        "start until it arrived; its pattern says what became of it. Gaps are waiting. A vertical "
        f"line is the moment when an update was done and the next step began.{some}"
    )
    with canvas(name, title, shows, height=1.5 + 0.19 * max(len(rows), 4)) as drawn:
        seen = _bars(drawn.axes, recording, window, rows, unit.seconds)
        for released in recording.released[window.first : window.last + 1]:
            drawn.axes.axvline((released - window.begin) / unit.seconds, color=INK, lw=0.9)
        drawn.axes.axvline(0, color=INK, lw=0.9)
        drawn.axes.set_xlim(0, 1.01 * (window.end - window.begin) / unit.seconds)
        drawn.axes.set_ylim(len(rows) - 0.4, -0.6)
        drawn.axes.set_yticks(range(len(rows)), [str(recording.workers[row]) for row in rows])
        drawn.axes.grid(False)
        drawn.axes.set_xlabel(f"time ({unit.name})")
        drawn.axes.set_ylabel("worker")
        legend(drawn.axes, 4, [patch(verdict) for verdict in seen])
    return Picture(name, title, shows, drawn.svg)


def patch(kind: int) -> Any:
    """Return the legend's entry for a verdict, or for waiting."""
    look = LOOKS[kind]
    return Patch(facecolor=look.color, hatch=look.hatch, edgecolor=INK, lw=0.6, label=look.name)


def _busiest(recording: Recording, window: Window) -> Any:
    """Return which workers to show: all, or those with the longest gradients at that time."""
    overlaps = (recording.began < window.end) & (recording.arrived > window.begin)
    longest = np.zeros(len(recording.workers))
    np.maximum.at(longest, recording.worker_of[overlaps], recording.busy[overlaps])
    return np.sort(np.argsort(-longest, kind="stable")[:MOST_ROWS])


def _bars(axes: Any, recording: Recording, window: Window, rows: Any, unit_s: float) -> list[int]:
    """Draw the bars; return the verdicts among them."""
    overlaps = (recording.began < window.end) & (recording.arrived > window.begin)
    overlaps &= np.isin(recording.worker_of, rows)
    verdicts = recording.contributions["verdict"]
    seen = []
    for verdict in range(len(VERDICTS)):
        chosen = np.flatnonzero(overlaps & (verdicts == verdict))
        if not len(chosen):
            continue
        seen.append(verdict)
        left = np.maximum(recording.began[chosen], window.begin) - window.begin
        right = np.minimum(recording.arrived[chosen], window.end) - window.begin
        axes.barh(
            np.searchsorted(rows, recording.worker_of[chosen]),
            (right - left) / unit_s,
            left=left / unit_s,
            height=0.72,
            color=LOOKS[verdict].color,
            hatch=LOOKS[verdict].hatch,
            edgecolor=INK,
            lw=0.5,
        )
    return seen


def speed(found: SpeedOverTime) -> Picture:
    """Draw the gradients per second over time."""
    unit = unit_for(float(found.edges[-1]))
    mean = float(found.used.mean())
    slowest = int(found.used.argmin())
    at = (found.edges[slowest] + found.edges[slowest + 1]) / 2
    shows = (
        "Gradients per second, without pauses between epochs, in "
        f"{count(len(found.used), 'interval')} of {seconds(float(found.edges[1]))}. On average "
        f"{number(mean)} per second were used; the fewest, {number(found.used[slowest])}, around "
        f"{seconds(float(at))}. The gap between the lines is work that no update used."
    )
    title = "Gradients per second"
    with canvas("speed-over-time", title, shows) as drawn:
        edges = found.edges / unit.seconds
        for values, label, color, width, dashes in (
            (found.computed, "computed", drawing.LINES[1], 1.4, "--"),
            (found.used, "used in updates", drawing.LINES[0], 2.2, "-"),
        ):
            drawn.axes.stairs(
                values, edges, baseline=None, color=color, lw=width, ls=dashes, label=label
            )
        drawn.axes.set_ylim(0, 1.08 * max(found.computed.max(), 1e-9))
        drawn.axes.set_xlim(0, edges[-1])
        drawn.axes.set_xlabel(f"time spent training ({unit.name})")
        drawn.axes.set_ylabel("gradients per second")
        legend(drawn.axes, columns=2)
    return Picture("speed-over-time", title, shows, drawn.svg)


def ages(staleness: Any) -> Picture:
    """Draw how many updates old the gradients were that were used."""
    counts = np.bincount(np.asarray(staleness, np.int64))
    share = 100 * counts / counts.sum()
    mean = float(np.average(np.arange(len(counts)), weights=counts))
    shows = (
        f"Share of the used gradients by their age: the number of updates made between the "
        f"parameters that a gradient was computed at and the update that used it. The mean is "
        f"{number(mean)}, the largest {len(counts) - 1}; {percent(share[0] / 100)} had age 0."
    )
    title = "Age of the gradients that were used"
    with canvas("ages", title, shows) as drawn:
        drawn.axes.bar(np.arange(len(counts)), share, color=LOOKS[0].color, edgecolor=INK, lw=0.5)
        drawn.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.axes.set_xlabel("age (updates)")
        drawn.axes.set_ylabel("share of used gradients (%)")
    return Picture("ages", title, shows, drawn.svg)
