"""Sections about the workers: their time, their speed, what slow ones cost, faults."""

from __future__ import annotations

from collections import Counter

import numpy as np

from scripts.reports import pictures_of_workers
from scripts.reports.amounts import NOTHING, count, percent, seconds
from scripts.reports.html_blocks import Section, table
from scripts.reports.incidents import Incident
from scripts.reports.pictures_of_updates import MOST_ROWS
from scripts.reports.slowdowns import Slowdowns
from scripts.reports.work_shares import WorkShares
from scripts.reports.worker_scores import THRESHOLD, WorkerScore
from tf_backup.timeline.schema import VERDICTS

_INCIDENTS = 40  # In a table.
_CLOSE = 0.1  # A replay this near the recorded time can be trusted.
_NAMES = {"accepted": "used", "nonfinite": "not finite"}  # For readers.

_KINDS = {
    "lost": "gradient lost",
    "nonfinite": "gradient with NaN or Inf",
    "duplicate": "gradient came twice",
    "joined": "joined late",
    "away": "away, or had no data",
    "gone": "did not come back, or had no more data",
}


def work(shares: WorkShares) -> Section:
    """Return what the workers' time and gradients went into."""
    section = Section("work", "Wasted work")
    section.show(pictures_of_workers.time_shares(shares))
    kinds = [kind for kind in range(len(VERDICTS)) if kind < 3 or shares.counts[:, kind].any()]
    names = [_NAMES.get(VERDICTS[kind], VERDICTS[kind]) for kind in kinds]
    of_time, unused = shares.of_time, shares.unused
    shown = {*np.argsort(-unused, kind="stable")[:MOST_ROWS].tolist()}
    rows = [
        [
            str(worker),
            count(int(shares.counts[row].sum())),
            percent(float(unused[row])),
            *(count(int(shares.counts[row, kind])) for kind in kinds),
            percent(float(of_time[row, -1])),
        ]
        for row, worker in enumerate(shares.workers)
        if row in shown
    ]
    header = ["worker", "computed", "not used", *names, "time waiting or away"]
    section.blocks.append(table("Gradients of each worker, by what became of them", header, rows))
    _say_rest(section, len(shares.workers), "whose gradients were used least")
    return section


def compared(found: list[WorkerScore]) -> Section:
    """Return the scores of the workers."""
    section = Section("compared", "Workers compared")
    if not found:
        section.say("No worker has computed a gradient to its end.")
        return section
    section.say(
        "Two scores for each worker, both ratios of median times. A low score against the fastest "
        "worker tells a slow machine; a low score against its own best, one that has become slow. "
        "NVIDIA's resiliency extension has the same two, and by default calls a worker slow below "
        f"{THRESHOLD}."
    )
    worst = sorted(found, key=lambda each: each.lowest)[:MOST_ROWS]
    rows = [
        [
            str(each.worker),
            f"{each.relative:.2f}",
            NOTHING if each.own is None else f"{each.own:.2f}",
            seconds(each.median),
            seconds(each.median_compute),
            count(each.gradients),
        ]
        for each in sorted(worst, key=lambda each: each.worker)
    ]
    header = ["worker", "vs fastest", "vs own best", "median time", "of it computing", "gradients"]
    beside = table("Scores, and the median time until a gradient arrived", header, rows)
    section.show(pictures_of_workers.scores(found), beside=beside)
    _say_rest(section, len(found), "with the lowest scores")
    return section


def what_if(found: Slowdowns | None) -> Section:
    """Return what slow workers cost."""
    section = Section("what-if", "What slow workers cost")
    if found is None:
        section.say("There are too few updates or workers to replay, or N changed during the run.")
        return section
    away = abs(found.replayed / found.recorded - 1)
    section.say(
        "The recorded times of all gradients are replayed under the same rules, and then again "
        "with the times of slow workers made shorter (a what-if analysis, as in ByteDance's study "
        f"of stragglers). The plain replay takes {seconds(found.replayed)} per update, and the run "
        f"took {seconds(found.recorded)}:",
        "they agree."
        if away <= _CLOSE
        else f"they differ by {percent(away)}, so take the rest as an estimate. A replay knows "
        "nothing of workers that were away.",
    )
    replays = {
        "as recorded": found.replayed,
        "no slow worker": found.none_slow,
        "no long gradient": found.none_long,
        **{f"worker {worker}": each for worker, each in found.without.items()},
    }
    rows = [
        [
            name,
            seconds(each),
            percent(found.gain(each)) if found.gain(each) > 0 else "none",
            f"{found.replayed / each:.2f} times",
        ]
        for name, each in replays.items()
    ]
    header = ["what if", "time per update", "time saved", "speed-up"]
    beside = table("Time per update in replays, in the order of the picture", header, rows)
    section.show(pictures_of_workers.what_if(found), beside=beside)
    return section


def faults(found: list[Incident]) -> Section:
    """Return what went wrong."""
    section = Section("faults", "Faults")
    if not found:
        section.say("Nothing was lost, and every worker was there all the time.")
        return section
    kinds = Counter(each.kind for each in found)
    section.say(
        "Seen: "
        + "; ".join(f"{_KINDS[kind]}: {count(kinds[kind])}" for kind in _KINDS if kinds[kind])
        + ". A worker is away if two updates or more are made for which it starts nothing."
    )
    worst = sorted(sorted(found, key=lambda each: -each.seconds)[:_INCIDENTS])
    what = table(
        "What happened"
        + (f": the {_INCIDENTS} longest of {count(len(found))}" if len(found) > _INCIDENTS else ""),
        ["at", "worker", "what", "for", "updates meanwhile"],
        [
            [
                seconds(each.at),
                str(each.worker),
                _KINDS[each.kind],
                seconds(each.seconds),
                count(each.updates),
            ]
            for each in worst
        ],
        words=(2,),
    )
    section.blocks.append(what)
    if len(found) > _INCIDENTS:
        by_worker = Counter(each.worker for each in found)
        section.say(
            "Most happened to: "
            + ", ".join(
                f"worker {worker} ({times:,})" for worker, times in by_worker.most_common(8)
            )
            + "."
        )
    return section


def _say_rest(section: Section, workers: int, which: str) -> None:
    if workers > MOST_ROWS:
        section.say(f"The table has the {MOST_ROWS} of {count(workers, 'worker')} {which}.")
