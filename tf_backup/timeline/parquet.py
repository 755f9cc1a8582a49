"""Files of a timeline: Parquet, under `records/` of a log folder.

    records/SESSION/contributions-000001.parquet     rows of CONTRIBUTION, `verdict` as a word
    records/SESSION/updates-000001.parquet           rows of UPDATE

A session is a process that trained: a training that is started again has several. Every file is
whole: it is written under another name first. So a process that is killed loses the rows of its
last seconds and no others. Each file names the settings and versions of its training, and the
version of this format. Checksums tell a file that was damaged later: its rows are left out, and a
note says so.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_backup.errors import RecordsError
from tf_backup.timeline.schema import CONTRIBUTION, UPDATE, VERDICTS, Rows, Settings, Timeline

log = logging.getLogger(__name__)

FORMAT = 1  # Readers refuse files of a later one.
FOLDER = "records"
ALL = "all"
_KINDS = {"contributions": CONTRIBUTION, "updates": UPDATE}
# Of the metadata in a file's schema: what the file says of itself, and the CRC-32 of that.
_KEY, _CHECK = b"tf_backup", b"tf_backup.crc32"
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
        """Replace many small files by one, under the name of the last.

        If one of them has been damaged, all stay as they are.
        """
        paths, self._small[kind] = self._small[kind], []
        try:
            rows = np.concatenate([_read(path, kind).rows for path in paths])
        except _Unreadable as error:
            log.warning(
                "Some records cannot be read again (%s), so they stay in small files.", error
            )
            return
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
        found: list[Rows] = []
        merged: set[str] = set()
        for path in sorted(folder.glob(f"{kind}-*.parquet"), reverse=True):
            if path.name in merged:  # Its process was killed while it merged files.
                continue
            try:
                part = _read(path, kind)
            except _Unreadable as error:
                notes.append(f"{path.name} cannot be read ({error}): its rows are missing.")
                continue
            merged.update(part.merged)
            settings = part.settings
            found.append(part.rows)
        rows[kind] = np.concatenate([np.zeros(0, dtype), *reversed(found)])
    if settings is None or not len(rows["updates"]):
        raise RecordsError(
            f"{folder} has no whole update{': ' + ' '.join(notes) if notes else ''}."
        )
    return Timeline(settings, rows["contributions"], rows["updates"], tuple(notes))


class _Unreadable(Exception):
    """Raised for a damaged file."""


class _File(NamedTuple):
    """Content of a file, with the names of the files that were merged into it."""

    rows: Rows
    settings: Settings
    merged: list[str]


def _write(path: pathlib.Path, rows: Rows, settings: Settings, merged: Sequence[str] = ()) -> None:
    """Write a file, whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    columns = {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()}
    if "verdict" in columns:
        codes = pyarrow.array(columns["verdict"])
        columns["verdict"] = pyarrow.DictionaryArray.from_arrays(codes, list(VERDICTS))
    about = {
        "format": FORMAT,
        "settings": dataclasses.asdict(settings),
        "merged": list(merged),
        "rows_crc32": zlib.crc32(rows.tobytes()),
    }
    text = json.dumps(about).encode()
    table = pyarrow.table(columns, metadata={_KEY: text, _CHECK: str(zlib.crc32(text))})
    partial = path.with_name(f".{path.name}.partial")
    try:
        parquet.write_table(table, partial, write_page_checksum=True)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _read(path: pathlib.Path, kind: str) -> _File:
    """Return the content of a file.

    Raises:
      RecordsError: if it was written by a later version.
      _Unreadable: if it is damaged.
    """
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, page_checksum_verification=True)
        about = _about(table.schema.metadata or {})
        version = int(about["format"])
        if version > FORMAT:
            raise RecordsError(
                f"{path} is of format {version}, and this version of tf_backup reads up to "
                f"{FORMAT}: read it with the version that wrote it, or a later one."
            )
        rows = _rows(table, _KINDS[kind])
        if about.get("rows_crc32", zlib.crc32(rows.tobytes())) != zlib.crc32(rows.tobytes()):
            raise _Unreadable("its rows are not those that were written")
        return _File(rows, _settings(about), list(about.get("merged", ())))
    except (RecordsError, _Unreadable):
        raise
    except Exception as error:  # A damaged file may cause any, in pyarrow or here.
        text = str(error) or type(error).__name__
        raise _Unreadable(text.splitlines()[0][:80]) from error


def _about(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Return what a file says of itself; files of older versions have no checksum of it."""
    text = metadata[_KEY]
    if int(metadata.get(_CHECK, zlib.crc32(text))) != zlib.crc32(text):
        raise _Unreadable("its settings are not those that were written")
    about: dict[str, Any] = json.loads(text)
    return about


def _rows(table: Any, dtype: np.dtype[Any]) -> Rows:
    """Return the rows of a table."""
    rows = np.zeros(len(table), dtype)
    for name in dtype.names or ():
        column = table[name].combine_chunks()
        if name == "verdict":
            codes = {word: code for code, word in enumerate(VERDICTS)}
            names = np.array([codes[word] for word in column.dictionary.to_pylist()], np.int8)
            rows[name] = names[column.indices.to_numpy(zero_copy_only=False)]
        else:
            rows[name] = column.to_numpy(zero_copy_only=False)
    return rows


def _settings(about: dict[str, Any]) -> Settings:
    known = {field.name for field in dataclasses.fields(Settings)}
    return Settings(**{name: value for name, value in about["settings"].items() if name in known})


def _age(folder: pathlib.Path) -> int:
    return min(path.stat().st_mtime_ns for path in folder.glob("updates-*.parquet"))
