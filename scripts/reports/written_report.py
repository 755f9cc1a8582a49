"""A report: its sections in order, written as a page and its pictures."""

from __future__ import annotations

import contextlib
import os
import pathlib

from scripts.reports import advised_splits, sections, sections_of_workers
from scripts.reports.html_blocks import Section
from scripts.reports.incidents import incidents
from scripts.reports.page import page
from scripts.reports.recording import Recording
from scripts.reports.slowdowns import slowdowns
from scripts.reports.work_shares import WorkShares
from scripts.reports.worker_scores import scores
from tf_backup.advice.advice import Advice
from tf_backup.advice.recommend import recommend


def all_sections(recording: Recording) -> list[Section]:
    """Return the sections of a report on a recording."""
    shares, found = WorkShares.of(recording), scores(recording)
    return [
        sections.summary(recording, shares, found),
        sections.arrivals(recording),
        sections.closely(recording),
        sections_of_workers.work(shares),
        sections.speed(recording),
        sections_of_workers.compared(found),
        sections_of_workers.what_if(slowdowns(recording)),
        sections_of_workers.faults(incidents(recording)),
        advised_splits.advice(_advice(recording)),
    ]


def write(path: str | os.PathLike[str], recording: Recording, log_dir: str) -> list[pathlib.Path]:
    """Write a report.

    Args:
      path: file name of the page; the pictures are written beside it.
      recording: the training.
      log_dir: where its records are, for the page's first lines.

    Returns:
      The files written, the page first.

    Raises:
      OSError: if a file cannot be written.
    """
    target = pathlib.Path(path)
    parts = all_sections(recording)
    settings = recording.settings
    title = f"Training of {settings.model}" if settings.model else "Training"
    subtitle = (
        f"{len(recording.updates):,} updates by {len(recording.workers):,} workers, from {log_dir}"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures = [picture for part in parts for picture in part.pictures]
    written = [target, *(target.with_name(f"{picture.name}.svg") for picture in pictures)]
    for file, picture in zip(written[1:], pictures, strict=True):
        _replace(file, picture.file)
    _replace(target, page(title, subtitle, recording.timeline.notes, parts))
    return written


def _replace(path: pathlib.Path, text: str) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _advice(recording: Recording) -> Advice | str:
    """Return the advice, or why there is none."""
    try:
        return recommend(recording.timeline)
    except ValueError as error:
        return str(error)
