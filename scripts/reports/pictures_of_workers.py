"""Pictures with a row per worker: time, scores, what-if."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.reports import drawing
from scripts.reports.amounts import count, listed, percent, seconds
from scripts.reports.drawing import INK, LOOKS, Picture, canvas, legend
from scripts.reports.pictures_of_updates import MOST_ROWS, patch
from scripts.reports.slowdowns import Slowdowns
from scripts.reports.work_shares import WorkShares
from scripts.reports.worker_scores import THRESHOLD, WorkerScore
from tf_backup.timeline.schema import ACCEPTED

_WAITING = len(LOOKS) - 1


def time_shares(shares: WorkShares) -> Picture:
    """Draw what each worker's time went into."""
    of_time = shares.of_time
    wasted = of_time[:, ACCEPTED + 1 : _WAITING].sum(axis=1)
    rows = np.sort(np.argsort(-wasted, kind="stable")[:MOST_ROWS])
    worst = int(np.argmax(wasted))
    shows = (
        "What each worker's time went into: gradients that were used, gradients that were not, and "
        "waiting for the next step (or for the worker to come back). "
        + (
            f"Worker {shares.workers[worst]} spent most on gradients that no update used: "
            f"{percent(float(wasted[worst]))} of its time."
            if wasted[worst] > 0
            else "No worker computed a gradient in vain."
        )
        + _some(len(rows), len(shares.workers), "with the most work in vain")
    )
    title = "What the workers' time went into"
    with canvas("time-shares", title, shows, height=1.6 + 0.21 * max(len(rows), 3)) as drawn:
        left = np.zeros(len(rows))
        seen = [kind for kind in range(len(LOOKS)) if of_time[rows, kind].any()]
        for kind in seen:
            width = 100 * of_time[rows, kind]
            drawn.axes.barh(
                np.arange(len(rows)),
                width,
                left=left,
                height=0.72,
                color=LOOKS[kind].color,
                hatch=LOOKS[kind].hatch,
                edgecolor=INK,
                lw=0.5,
            )
            left += width
        _rows(drawn.axes, [str(shares.workers[row]) for row in rows])
        drawn.axes.set_xlim(0, 100)
        drawn.axes.set_xlabel("share of the worker's time (%)")
        drawn.axes.set_ylabel("worker")
        legend(drawn.axes, 3, [patch(kind) for kind in seen])
    return Picture("time-shares", title, shows, drawn.svg)


def scores(found: Sequence[WorkerScore]) -> Picture:
    """Draw both scores of each worker."""
    worst = sorted(found, key=lambda each: each.lowest)[:MOST_ROWS]
    shown = sorted(worst, key=lambda each: each.worker)
    slow = [f"worker {each.worker}" for each in found if each.slow]
    shows = (
        "Speed of each worker against the fastest one (circle) and against its own best time "
        f"(diamond). 1 is as fast, 0.5 twice as slow. Below {THRESHOLD}, the shaded part, a worker "
        "counts as slow: "
        + (
            f"here {listed(slow[:8])}{' and others' if len(slow) > 8 else ''}."
            if slow
            else "here none."
        )
        + _some(len(shown), len(found), "with the lowest scores")
    )
    title = "Speed of the workers, compared"
    with canvas("scores", title, shows, height=1.6 + 0.21 * max(len(shown), 3)) as drawn:
        axes, y = drawn.axes, np.arange(len(shown))
        own = [(row, each.own) for row, each in enumerate(shown) if each.own is not None]
        lowest = min(*(each.relative for each in shown), *(value for _, value in own), 1.0)
        left = max(0.0, min(0.5, lowest - 0.1))
        axes.axvspan(0, THRESHOLD, color=drawing.LINES[4], alpha=0.12, lw=0)
        axes.axvline(THRESHOLD, color=INK, lw=0.8, ls="--")
        style: dict[str, Any] = {"ls": "", "markeredgecolor": INK, "markeredgewidth": 0.7}
        if own:
            rows, values = zip(*own, strict=True)
            axes.plot(
                values, rows, marker="D", ms=6, color=drawing.LINES[1], label="vs own best", **style
            )
        relative = [each.relative for each in shown]
        axes.plot(
            relative,
            y,
            marker="o",
            ms=6,
            color=drawing.LINES[0],
            label="vs fastest worker",
            **style,
        )
        _rows(axes, [str(each.worker) for each in shown])
        axes.set_xlim(left, 1.04)
        axes.set_xlabel("score (1 is as fast, 0.5 half as fast)")
        axes.set_ylabel("worker")
        legend(axes, columns=2)
    return Picture("scores", title, shows, drawn.svg)


def what_if(found: Slowdowns) -> Picture:
    """Draw how much faster the training would have been without slow workers."""
    bars = {
        "no slow worker": found.gain(found.none_slow),
        "no long gradient": found.gain(found.none_long),
        **{f"worker {worker}": found.gain(each) for worker, each in found.without.items()},
    }
    alone = {worker: found.gain(each) for worker, each in found.without.items()}
    worst = next(iter(alone), None)
    shows = (
        "How much less time an update would take, in a replay of the recorded times: if no worker "
        f"were slower than the usual one (median {seconds(found.usual)}); if no gradient at all "
        "took longer than that; and if no gradient of one worker did."
    )
    if worst is not None and alone[worst] >= 0.005:
        shows += f" Worker {worst} alone costs most: {percent(alone[worst])} of the time."
    elif worst is not None:
        shows += " No worker alone costs more than half a percent."
    title = "Time saved without slow workers"
    with canvas("what-if", title, shows, height=1.2 + 0.24 * max(len(bars), 3)) as drawn:
        gains = [100 * gain for gain in bars.values()]
        colors = [drawing.LINES[0]] * 2 + [drawing.LINES[1]] * len(alone)
        hatches = [""] * 2 + ["///"] * len(alone)
        drawn.axes.barh(
            np.arange(len(gains)), gains, color=colors, hatch=hatches, edgecolor=INK, lw=0.5
        )
        for row, gain in enumerate(gains):
            drawn.axes.annotate(
                f"{max(gain, 0):.1f} %",
                (max(gain, 0), row),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
            )
        _rows(drawn.axes, list(bars))
        drawn.axes.set_xlim(min(0, *gains), 1.2 * max(5, *gains))
        drawn.axes.set_xlabel("time saved (% of the replayed time)")
        drawn.axes.set_ylabel("what if")
    return Picture("what-if", title, shows, drawn.svg)


def _rows(axes: Any, names: list[str]) -> None:
    """Label the rows from the top down."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")


def _some(shown: int, of: int, which: str) -> str:
    return "" if shown == of else f" Shown are the {count(shown, 'worker')} {which}, of {of}."
