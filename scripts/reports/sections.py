"""Sections about the training as a whole: summary, arrivals, details, speed."""

from __future__ import annotations

import datetime
import html

import numpy as np

from scripts.reports import pictures_of_updates, shown_updates
from scripts.reports.amounts import NOTHING, count, number, percent, seconds
from scripts.reports.arrivals_by_rank import ArrivalsByRank
from scripts.reports.html_blocks import Section, facts, table
from scripts.reports.recording import Floats, Recording
from scripts.reports.speed_over_time import SpeedOverTime
from scripts.reports.work_shares import WorkShares
from scripts.reports.worker_scores import WorkerScore
from tf_backup.timeline.schema import ACCEPTED, DUPLICATE, LATE, LOST, NONFINITE, STALE


def summary(recording: Recording, shares: WorkShares, found: list[WorkerScore]) -> Section:
    """Return the numbers that come first."""
    section = Section("summary", "Summary")
    of_gradients = shares.of_gradients
    section.blocks.append(f'<p class="lead">{html.escape(_cost(recording, shares))}</p>')
    slowest = max(found, key=lambda each: each.median, default=None)
    updates, gradients = len(recording.updates), int(shares.counts.sum())
    used = int(shares.counts[:, ACCEPTED].sum())
    length = max(recording.seconds, 1e-9)
    section.blocks.append(
        facts(
            [
                ("updates", count(updates)),
                ("updates per second", number(updates / length)),
                ("gradients used per second", number(used / length)),
                ("gradients computed", count(gradients)),
                ("used", percent(of_gradients[ACCEPTED])),
                ("late", percent(of_gradients[LATE])),
                ("stale", percent(of_gradients[STALE])),
                ("lost", percent(of_gradients[LOST])),
                ("time spent training", seconds(recording.seconds)),
                (
                    "slowest worker (median)",
                    NOTHING if slowest is None else f"{slowest.worker}: {seconds(slowest.median)}",
                ),
            ]
        )
    )
    section.say(
        "A gradient is late if its update already had all it needed, stale if that update was "
        "over, and lost if its worker died, froze or was not finished at the end.",
        _others(of_gradients),
        "Time spent training leaves out pauses between epochs, such as evaluations.",
    )
    section.blocks.append(facts(_settings(recording), "small"))
    return section


def _cost(recording: Recording, shares: WorkShares) -> str:
    """Return a sentence on what waiting cost."""
    half, full = recording.nth_used
    begun = np.isfinite(recording.starts)
    waited = float(np.nanmean((full - half)[begun])) if begun.any() else float("nan")
    of_time = shares.of_all_time
    went = (
        f"Of the workers' time, {percent(of_time[ACCEPTED])} went into gradients that were used, "
        f"{percent(float(of_time[ACCEPTED + 1 : -1].sum()))} into "
        f"gradients that were not, and "
        f"{percent(of_time[-1])} into waiting."
    )
    if not recording.synchronous or recording.sizes.mean < 2 or not np.isfinite(waited):
        return went
    took = float(np.nanmean(recording.released - recording.starts))
    return (
        f"Once half of its {recording.sizes} gradients were there, an update waited "
        f"another {seconds(waited)} on average for the rest: {percent(waited / took)} of the time "
        f"between two updates. {went}"
    )


def _others(of_gradients: Floats) -> str:
    """Return a sentence on the rare verdicts, if there are any."""
    rare = ((NONFINITE, "had NaN or Inf and were dropped"), (DUPLICATE, "came twice"))
    said = [f"{percent(of_gradients[kind])} {text}" for kind, text in rare if of_gradients[kind]]
    return f"Of all gradients, {' and '.join(said)}." if said else ""


def _settings(recording: Recording) -> list[tuple[str, str]]:
    settings, sizes = recording.settings, recording.sizes
    begun = datetime.datetime.fromtimestamp(recording.origin_us / 1e6, datetime.timezone.utc)
    bound = settings.max_staleness
    pairs = [
        ("model", settings.model or NOTHING),
        ("gradients per update (N)", str(sizes)),
        (
            "backup workers (b)",
            count(settings.workers - sizes.usual) if sizes.fixed else "the other workers",
        ),
        ("oldest gradient used", "any age" if bound is None else f"{bound:,} updates old"),
        ("parameter servers", count(settings.parameter_servers)),
        (
            "batch size of a worker",
            NOTHING if settings.batch_size is None else count(settings.batch_size),
        ),
        ("epochs or runs", count(len(recording.runs))),
        ("began (UTC)", f"{begun:%Y-%m-%d %H:%M:%S}"),
        ("session", settings.session or NOTHING),
    ]
    if bound == 0:
        pairs[3] = ("training", "synchronous")
    return pairs + [(str(name), str(value)) for name, value in settings.versions.items()]


def arrivals(recording: Recording) -> Section:
    """Return the paper's figures 3 and 4."""
    section = Section("arrivals", "How fast gradients arrive")
    if not recording.synchronous:
        section.say(
            "This run uses gradients that are some updates old, so a gradient belongs to no "
            "single update, and there is no k-th of an update. Instead, this is how old they were."
        )
        section.show(pictures_of_updates.ages(recording.timeline.staleness))
        return section
    found = ArrivalsByRank.of(recording)
    if not found.steps or not np.isfinite(found.times).any():
        section.say("There are too few updates: a step starts with the release of the one before.")
        return section
    section.say(
        "A step starts when the update before is done, and the update is made as soon as "
        f"{recording.sizes} of the {recording.settings.workers} gradients are there. A steep end "
        "means that a few slow gradients hold up all others, which backup workers (b) avoid. "
        "Gradients that come after their update count at their real time.",
        ""
        if recording.sizes.fixed
        else f"N changed during the run; these are the {count(found.steps, 'step')} with the most "
        f"common one, N = {found.replicas}.",
    )
    section.show(pictures_of_updates.distribution(found), pictures_of_updates.by_rank(found))
    quantiles = [found.quantile(q) for q in (0.5, 0.9, 0.99)]
    mean, share = found.mean, found.share
    times = table(
        "Time from the start of a step until its k-th gradient",
        ["k", "arrived", "mean", "median", "90 %", "99 %"],
        [
            [
                f"{k}{' = N' if k == found.replicas else ''}",
                percent(share[k - 1]),
                seconds(mean[k - 1]),
                *(seconds(each[k - 1]) for each in quantiles),
            ]
            for k in found.shown_ranks()
        ],
    )
    section.blocks.append(times)
    return section


def closely(recording: Recording) -> Section:
    """Return a few updates, with what each worker did."""
    section = Section("closely", "A few updates in detail")
    pictures = [
        pictures_of_updates.close_by(
            recording,
            shown_updates.usual(recording),
            "usual-updates",
            "Usual updates",
            "Updates that took about as long as most others",
        )
    ]
    slow = shown_updates.slowest(recording)
    if slow is not None:
        pictures.append(
            pictures_of_updates.close_by(
                recording,
                slow,
                "slowest-update",
                "The slowest update",
                "The update that took longest, with its neighbors",
            )
        )
    section.show(*pictures)
    return section


def speed(recording: Recording) -> Section:
    """Return gradients per second over time."""
    section = Section("speed", "Speed over time")
    found = SpeedOverTime.of(recording)
    section.show(pictures_of_updates.speed(found))
    return section
