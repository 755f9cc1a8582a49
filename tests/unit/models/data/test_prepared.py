from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from models.data import loading, prepared
from tests.unit.prepared_data import numbered, write

FROM_FILES = [name for name in loading.NAMES if name not in ("digits", "topics", "imagenet2012")]


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the data sets downloaded so far, which are made up instead."""
    found: list[str] = []

    def download(self: Any, **kwargs: Any) -> None:
        found.append(self.name)
        if self.name == "imagenet2012":
            raise AssertionError("ImageNet requires manual download of the data.")
        write(Path(self.data_dir_root), self.name, {"train": numbered(3), "test": numbered(2)})

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    return found


@pytest.mark.parametrize("name", FROM_FILES)
def test_nothing_is_downloaded_unless_wanted(name: str, tmp_path: Path, downloads: list[str]):
    with pytest.raises(FileNotFoundError) as error:
        loading.load(name, str(tmp_path))
    assert f"data set {name!r} is not at {tmp_path / name}" in str(error.value)
    assert "Run scripts/train.py with --download on a machine with a network" in str(error.value)
    assert not downloads
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("download", [False, True])
def test_archives_to_be_fetched_by_hand_are_named(
    download: bool, tmp_path: Path, downloads: list[str]
):
    with pytest.raises(FileNotFoundError) as error:
        prepared.builder("imagenet2012", str(tmp_path), download)
    assert "Register at https://image-net.org/download-images" in str(error.value)
    archives = "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"
    assert f"put {archives} into {tmp_path / 'downloads' / 'manual'}" in str(error.value)
    assert downloads == ["imagenet2012"] * download


def test_what_is_downloaded_is_read(tmp_path: Path, downloads: list[str]):
    loaded = loading.load("mnist", str(tmp_path), download=True)
    assert (downloads, loaded.examples) == (["mnist"], 3)


def test_what_is_there_is_not_downloaded(tmp_path: Path, downloads: list[str]):
    write(tmp_path, "mnist", {"train": numbered(3), "test": numbered(2)})
    assert loading.load("mnist", str(tmp_path), download=True).examples == 3
    assert not downloads


def test_an_older_version_on_disk_is_read(tmp_path: Path):
    where = write(tmp_path, "mnist", {"train": numbered(3), "test": numbered(2)})
    where.rename(where.parent / "1.0.0")
    assert loading.load("mnist", str(tmp_path)).examples == 3
