"""The timeline to report on: of one process that trained, or of all that trained together."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from tf_backup.errors import RecordsError
from tf_backup.timeline import parquet
from tf_backup.timeline.schema import Timeline


def read(log_dir: str, session: str | None = None) -> Timeline:
    """Return the timeline of a session, of the latest one, or of "all".

    Runs are numbered per session, so those of "all" get new numbers that tell them apart.

    Raises:
      RecordsError: if there are no records to read; says why.
    """
    if not os.path.exists(log_dir):
        raise RecordsError(f"{log_dir} does not exist; give the folder that a training logs to.")
    if not os.path.isdir(log_dir):
        raise RecordsError(f"{log_dir} is not a folder; give the one that a training logs to.")
    try:
        names = parquet.sessions(log_dir)
    except RecordsError as error:
        raise RecordsError(f"{error} scripts/train.py writes them to its --log_dir.") from error
    whole = parquet.read(log_dir, session)
    if session != parquet.ALL or len(names) == 1:
        return whole
    parts, first = [], 0
    for name in names:
        part = parquet.read(log_dir, name)
        part = dataclasses.replace(
            part, contributions=part.contributions.copy(), updates=part.updates.copy()
        )
        lowest = int(part.updates["run"].min())
        for rows in (part.contributions, part.updates):
            rows["run"] += first - lowest
        first = int(part.updates["run"].max()) + 1
        parts.append(part)
    return dataclasses.replace(
        whole,
        contributions=np.concatenate([part.contributions for part in parts]),
        updates=np.concatenate([part.updates for part in parts]),
        notes=(*whole.notes, f"These are {len(names)} sessions, one after the other."),
    )
