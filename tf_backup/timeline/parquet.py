"""Files of a timeline: Parquet, under `records/` of a log folder.

    records/SESSION/contributions-000001.parquet     rows of CONTRIBUTION, `verdict` as a word
    records/SESSION/updates-000001.parquet           rows of UPDATE

A session is a process that trained: a training that is started again has several. Every file is
whole: it is written under another name first. So a process that is killed loses the rows of its
last seconds and no others. Each file names the settings and versions of its training, and the
version of this format.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_backup.errors import RecordsError
from tf_backup.timeline.schema import CONTRIBUTION, UPDATE, VERDICTS, Rows, Settings, Timeline

FORMAT = 1  # Readers refuse files of a later one.
FOLDER = "records"
ALL = "all"
_KINDS = {"contributions": CONTRIBUTION, "updates": UPDATE}
_KEY = b"tf_backup"  # Of the metadata in a file's schema.
_MERGE = 64  # Files of one kind are merged when there are so many.


class Writer:
    """Writes the rows of one session.

    Args:
      log_dir: log folder of the training.
      settings: its settings; `session` names the folder.
    """

    def __init__(self, log_dir: str | os.PathLike[str], settings: Settings) -> None:
        self._folder = pathlib.Path(log_dir) / FOLDER / settings.session
        self._settings = settings
        self._number = 0
        self._small: dict[str, list[pathlib.Path]] = {kind: [] for kind in _KINDS}

    def write(self, contributions: Rows, updates: Rows) -> None:
        """Write rows as new files.

        Raises:
          OSError: if they cannot be written, such as on a full disk.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        for kind, rows in (("contributions", contributions), ("updates", updates)):
            if not len(rows):
                continue
            path = self._folder / f"{kind}-{self._number:06d}.parquet"
            _write(path, rows, self._settings)
            self._small[kind].append(path)
            if len(self._small[kind]) >= _MERGE:
                self._merge(kind)

    def _merge(self, kind: str) -> None:
        """Replace many small files by one, under the name of the last."""
        paths, self._small[kind] = self._small[kind], []
        rows = np.concatenate([_read(path, kind)[0] for path in paths])
        _write(paths[-1], rows, self._settings, merged=[path.name for path in paths[:-1]])
        for path in paths[:-1]:
            path.unlink(missing_ok=True)


def sessions(log_dir: str | os.PathLike[str]) -> list[str]:
    """Return the names of the sessions that have records, oldest first.

    Raises:
      RecordsError: if there are none.
    """
    folder = pathlib.Path(log_dir) / FOLDER
    found = [path for path in folder.glob("*") if any(path.glob("updates-*.parquet"))]
    if not found:
        raise RecordsError(
            f"{log_dir} has no records of a training: {folder} has no whole update. The callback "
            "tf_backup.StragglerMonitor(log_dir) writes them."
        )
    return sorted((path.name for path in found), key=lambda name: _age(folder / name))


def read(log_dir: str | os.PathLike[str], session: str | None = None) -> Timeline:
    """Return the timeline in a log folder.

    Args:
      log_dir: the log folder of a training.
      session: name of a session, or "all"; by default the latest, and a note says so.

    Raises:
      RecordsError: if there are no records, or none of this session; if they are of a later
        version; or if the sessions of "all" have different settings.
    """
    names = sessions(log_dir)
    if session not in (None, ALL, *names):
        raise RecordsError(f"{log_dir} has no session {session!r}, but {', '.join(names)}.")
    chosen = names if session == ALL else [session or names[-1]]
    parts = [_session(pathlib.Path(log_dir) / FOLDER / name) for name in chosen]
    first = dataclasses.replace(parts[0].settings, session="")
    for part in parts[1:]:
        if dataclasses.replace(part.settings, session="") != first:
            raise RecordsError(
                f"The sessions in {log_dir} have different settings (N, b, model, versions or "
                f"others), so they cannot be read together: read one of {', '.join(names)}."
            )
    notes = [note for part in parts for note in part.notes]
    if session is None and len(names) > 1:
        notes.append(
            f"The folder has records of {len(names)} sessions; these are of the last, {names[-1]}."
        )
    return Timeline(
        parts[-1].settings,
        np.concatenate([part.contributions for part in parts]),
        np.concatenate([part.updates for part in parts]),
        tuple(notes),
    )


def _session(folder: pathlib.Path) -> Timeline:
    """Return the timeline of one session."""
    notes: list[str] = []
    rows: dict[str, Rows] = {}
    settings = None
    for kind, dtype in _KINDS.items():
        found, merged = [], set()
        for path in sorted(folder.glob(f"{kind}-*.parquet"), reverse=True):
            if path.name in merged:  # Its process was killed while it merged files.
                continue
            try:
                part, about = _read(path, kind)
            except _Unreadable as error:
                notes.append(f"{path.name} cannot be read ({error}): its rows are missing.")
                continue
            merged.update(about.get("merged", ()))
            settings = _settings(about)
            found.append(part)
        rows[kind] = np.concatenate([np.zeros(0, dtype), *reversed(found)])
    if settings is None or not len(rows["updates"]):
        raise RecordsError(
            f"{folder} has no whole update{': ' + ' '.join(notes) if notes else ''}."
        )
    return Timeline(settings, rows["contributions"], rows["updates"], tuple(notes))


class _Unreadable(Exception):
    """Raised for a damaged file."""


def _write(path: pathlib.Path, rows: Rows, settings: Settings, merged: Sequence[str] = ()) -> None:
    """Write a file, whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    columns = {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()}
    if "verdict" in columns:
        codes = pyarrow.array(columns["verdict"])
        columns["verdict"] = pyarrow.DictionaryArray.from_arrays(codes, list(VERDICTS))
    about = {"format": FORMAT, "settings": dataclasses.asdict(settings), "merged": list(merged)}
    table = pyarrow.table(columns, metadata={_KEY: json.dumps(about)})
    partial = path.with_name(f".{path.name}.partial")
    try:
        parquet.write_table(table, partial)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _read(path: pathlib.Path, kind: str) -> tuple[Rows, dict[str, Any]]:
    """Return the rows of a file, and what it says of itself.

    Raises:
      RecordsError: if it was written by a later version.
      _Unreadable: if it is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    dtype = _KINDS[kind]
    try:
        table = parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[_KEY])
        version = int(about["format"])
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _Unreadable(str(error).splitlines()[0][:80]) from error
    if version > FORMAT:
        raise RecordsError(
            f"{path} is of format {version}, and this version of tf_backup reads up to {FORMAT}: "
            "read it with the version that wrote it, or a later one."
        )
    try:
        rows = np.zeros(len(table), dtype)
        for name in dtype.names or ():
            column = table[name].combine_chunks()
            if name == "verdict":
                codes = {word: code for code, word in enumerate(VERDICTS)}
                names = np.array([codes[word] for word in column.dictionary.to_pylist()], np.int8)
                rows[name] = names[column.indices.to_numpy(zero_copy_only=False)]
            else:
                rows[name] = column.to_numpy(zero_copy_only=False)
    except (pyarrow.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _Unreadable(f"{error}"[:80]) from error
    return rows, about


def _settings(about: dict[str, Any]) -> Settings:
    known = {field.name for field in dataclasses.fields(Settings)}
    return Settings(**{name: value for name, value in about["settings"].items() if name in known})


def _age(folder: pathlib.Path) -> int:
    return min(path.stat().st_mtime_ns for path in folder.glob("updates-*.parquet"))
