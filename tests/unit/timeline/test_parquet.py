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
from tf_backup.timeline.schema import CONTRIBUTION, UPDATE, Rows, Settings, Timeline

pytestmark = pytest.mark.slow  # Computes for seconds.

SETTINGS = Settings(3, 1, batch_size=32, model="net", session="a", versions={"keras": "3"})
KINDS = ("contributions", "updates")


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


def written_twice(folder: pathlib.Path, kind: str) -> tuple[pathlib.Path, bytes, Timeline]:
    """Return the second of two files of a kind, its bytes, and the timeline of both."""
    writer = Writer(folder, SETTINGS)
    writer.write(*rows(0, 3))
    writer.write(*rows(3, 3))
    path = sorted(folder.rglob(f"{kind}-*.parquet"))[-1]
    return path, path.read_bytes(), read(folder)


def steps(timeline: Timeline) -> dict[str, list[int]]:
    return {kind: getattr(timeline, kind)["step"].tolist() for kind in KINDS}


@pytest.mark.parametrize("kept", [0, 3, 100, 0.25, 0.5, 0.75, -9, -8, -4, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_costs_its_rows_only(
    tmp_path: pathlib.Path, kind: str, kept: float
) -> None:
    path, content, whole = written_twice(tmp_path, kind)
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    timeline = read(tmp_path)
    assert steps(timeline) == {**steps(whole), kind: [n for n in steps(whole)[kind] if n < 3]}
    (note,) = timeline.notes
    assert path.name in note
    assert "rows are missing" in note


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_costs_the_rows_of_its_file_at_most(
    tmp_path: pathlib.Path, kind: str
) -> None:
    path, content, whole = written_twice(tmp_path, kind)
    noted = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        timeline = read(tmp_path)
        assert timeline.settings == SETTINGS
        if timeline.notes:
            noted += 1
            kept = [step for step in steps(whole)[kind] if step < 3]
            assert steps(timeline) == {**steps(whole), kind: kept}, seed
        else:  # The byte says nothing of the rows.
            np.testing.assert_array_equal(timeline.contributions, whole.contributions)
            np.testing.assert_array_equal(timeline.updates, whole.updates)
    assert noted > 150


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "about",
    [
        {"format": 1},
        {"format": 1, "settings": None},
        {"format": 1, "settings": {"replicaz": 3}},
        {"format": 1, "settings": {"replicas": 3}, "merged": 7},
        {"format": 1, "settings": {"replicas": 3}, "rows_crc32": 7},
        ["format"],
    ],
    ids=str,
)
def test_settings_that_make_no_sense_cost_the_rows_of_their_file(
    tmp_path: pathlib.Path, kind: str, about: object
) -> None:
    path, _, whole = written_twice(tmp_path, kind)
    table = arrow.read_table(path)
    arrow.write_table(table.replace_schema_metadata({"tf_backup": json.dumps(about)}), path)
    timeline = read(tmp_path)
    assert steps(timeline) == {**steps(whole), kind: [n for n in steps(whole)[kind] if n < 3]}
    assert (timeline.settings, len(timeline.notes)) == (SETTINGS, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_many_flipped_bytes_are_no_traceback(tmp_path: pathlib.Path, kind: str) -> None:
    Writer(tmp_path, SETTINGS).write(*rows(0, 50))
    path = next(tmp_path.rglob(f"{kind}-*.parquet"))
    content = path.read_bytes()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for index in rng.integers(0, len(content), 40):
            damaged[index] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert len(read(tmp_path).updates) <= 50
        except RecordsError as error:
            assert "no whole update" in str(error)


def test_files_without_checksums_are_read(tmp_path: pathlib.Path) -> None:
    Writer(tmp_path, SETTINGS).write(*rows(0, 2))
    for path in tmp_path.rglob("*.parquet"):
        table = arrow.read_table(path)
        about = json.loads(table.schema.metadata[b"tf_backup"])
        del about["rows_crc32"]
        arrow.write_table(table.replace_schema_metadata({"tf_backup": json.dumps(about)}), path)
    timeline = read(tmp_path)
    assert (timeline.notes, timeline.settings) == ((), SETTINGS)
    assert timeline.updates["step"].tolist() == [0, 1]


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_damaged_during_training_is_not_merged(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, gone: bool
) -> None:
    writer = Writer(tmp_path, SETTINGS)
    writer.write(*rows(0, 1))
    path = next(tmp_path.rglob("updates-*.parquet"))
    path.unlink() if gone else path.write_bytes(b"PAR1")
    for step in range(1, 70):
        writer.write(*rows(step, 1))
    assert caplog.text.count("stay in small files") == 1
    assert read(tmp_path).updates["step"].tolist() == list(range(1, 70))


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
