"""Files of a timeline: what is written is read, and damage costs no more than the damaged file."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet as arrow

from tf_backup.errors import RecordsError
from tf_backup.timeline import parquet
from tf_backup.timeline.parquet import Writer, read, sessions
from tf_backup.timeline.schema import CONTRIBUTION, UPDATE, Rows, Settings

SETTINGS = Settings(3, 1, batch_size=32, model="net", session="a", versions={"keras": "3"})


def rows(first: int, steps: int) -> tuple[Rows, Rows]:
    """Return rows of some steps: three gradients are accepted, and one is late."""
    contributions = np.zeros(4 * steps, CONTRIBUTION)
    contributions["step"] = np.repeat(np.arange(first, first + steps), 4)
    contributions["verdict"] = np.tile([0, 0, 0, 1], steps)
    contributions["worker"] = np.tile([0, 1, 2, 3], steps)
    contributions["update"] = np.where(contributions["verdict"] == 0, contributions["step"], -1)
    contributions["arrived"] = np.arange(4 * steps) + 1_795_730_350_534_865
    updates = np.zeros(steps, UPDATE)
    updates["step"] = np.arange(first, first + steps)
    return contributions, updates


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
    contributions, updates = rows(7, 5)
    Writer(tmp_path, SETTINGS).write(contributions, updates)
    timeline = read(tmp_path)
    assert timeline.settings == SETTINGS
    assert timeline.notes == ()
    np.testing.assert_array_equal(timeline.contributions, contributions)
    np.testing.assert_array_equal(timeline.updates, updates)
    assert timeline.counts()["late"] == 5


def test_words_are_in_the_files(tmp_path: pathlib.Path) -> None:
    Writer(tmp_path, SETTINGS).write(*rows(0, 1))
    (path,) = tmp_path.rglob("contributions-*.parquet")
    assert arrow.read_table(path)["verdict"].to_pylist() == ["accepted"] * 3 + ["late"]


def test_many_files_are_merged(tmp_path: pathlib.Path) -> None:
    writer = Writer(tmp_path, SETTINGS)
    for step in range(200):
        writer.write(*rows(step, 1))
    assert len(list(tmp_path.rglob("updates-*.parquet"))) == 3 + 200 % 64
    assert read(tmp_path).updates["step"].tolist() == list(range(200))


def test_killed_while_merging(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathlib.Path, "unlink", lambda self, missing_ok=False: None)
    writer = Writer(tmp_path, SETTINGS)
    for step in range(70):
        writer.write(*rows(step, 1))
    assert len(list(tmp_path.rglob("updates-*.parquet"))) == 70
    assert read(tmp_path).updates["step"].tolist() == list(range(70))


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_a_file_that_is_cut_off_costs_its_rows_only(tmp_path: pathlib.Path, kept: float) -> None:
    writer = Writer(tmp_path, SETTINGS)
    writer.write(*rows(0, 3))
    writer.write(*rows(3, 3))
    path = sorted(tmp_path.rglob("updates-*.parquet"))[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)])
    timeline = read(tmp_path)
    assert timeline.updates["step"].tolist() == [0, 1, 2]
    (note,) = timeline.notes
    assert path.name in note
    assert "rows are missing" in note


def test_flipped_bytes_are_no_traceback(tmp_path: pathlib.Path) -> None:
    Writer(tmp_path, SETTINGS).write(*rows(0, 50))
    path = next(tmp_path.rglob("updates-*.parquet"))
    whole = path.read_bytes()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        damaged = bytearray(whole)
        for index in rng.integers(0, len(whole), 40):
            damaged[index] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert len(read(tmp_path).updates) <= 50
        except RecordsError as error:
            assert "no whole update" in str(error)


def test_a_folder_without_records(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecordsError, match=r"has no records.*StragglerMonitor"):
        read(tmp_path)


def test_records_of_a_later_version(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FORMAT", 2)
    Writer(tmp_path, SETTINGS).write(*rows(0, 1))
    monkeypatch.undo()
    with pytest.raises(RecordsError, match="is of format 2, and this version"):
        read(tmp_path)


def test_a_file_of_another_kind(tmp_path: pathlib.Path) -> None:
    Writer(tmp_path, SETTINGS).write(*rows(0, 2))
    path = next(tmp_path.rglob("updates-*.parquet"))
    arrow.write_table(pyarrow.table({"step": [1]}), path)
    with pytest.raises(RecordsError, match="no whole update"):
        read(tmp_path)
    about = json.dumps({"format": 1, "settings": dataclasses.asdict(SETTINGS)})
    arrow.write_table(pyarrow.table({"x": [1]}, metadata={b"tf_backup": about}), path)
    with pytest.raises(RecordsError, match="no whole update"):
        read(tmp_path)


def test_sessions(tmp_path: pathlib.Path) -> None:
    for name, first in (("b", 0), ("a", 3)):
        Writer(tmp_path, dataclasses.replace(SETTINGS, session=name)).write(*rows(first, 3))
        for path in (tmp_path / "records" / name).iterdir():
            os.utime(path, (first + 1, first + 1))
    assert sessions(tmp_path) == ["b", "a"]
    last = read(tmp_path)
    assert last.updates["step"].tolist() == [3, 4, 5]
    assert last.notes == ("The folder has records of 2 sessions; these are of the last, a.",)
    assert read(tmp_path, "b").updates["step"].tolist() == [0, 1, 2]
    assert read(tmp_path, "all").updates["step"].tolist() == list(range(6))
    with pytest.raises(RecordsError, match=r"no session 'c', but b, a"):
        read(tmp_path, "c")


def test_sessions_of_different_settings_are_not_mixed(tmp_path: pathlib.Path) -> None:
    Writer(tmp_path, SETTINGS).write(*rows(0, 3))
    Writer(tmp_path, dataclasses.replace(SETTINGS, session="b", backups=2)).write(*rows(0, 3))
    with pytest.raises(RecordsError, match="different settings"):
        read(tmp_path, "all")
