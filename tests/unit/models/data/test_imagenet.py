from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models.data import imagenet, loading
from tests.unit.prepared_data import GARBAGE, corrupted, jpeg, write

MISSING = "tf-models-official is not installed (make install-models)"


@pytest.fixture
def official() -> None:
    pytest.importorskip("official.vision.ops.preprocess_ops", reason=MISSING)


def photographs(count: int = 20) -> list[dict[str, Any]]:
    """Return photographs of different sizes, darker on the left, with their number in blue."""
    found = []
    for number in range(count):
        height, width = 40 + 3 * number, 90 - 2 * number
        image = np.zeros([height, width, 3], np.uint8)
        image[..., 0] = np.linspace(0, 255, width)[None, :]
        image[..., 2] = 10 * number
        found.append({"image": jpeg(image), "label": number, "file_name": f"{number}.JPEG"})
    return found


def load(directory: Path, bad: tuple[int, ...] = (), **arguments: Any) -> loading.Data:
    examples = photographs()
    for place in bad:
        content = GARBAGE if place % 2 else examples[place]["image"][:100]
        examples[place] = corrupted(examples[place], content)
    write(directory, "imagenet2012", {"train": examples, "validation": examples[:10]}, 6)
    return loading.load("imagenet2012", str(directory), **arguments)


def test_without_the_model_garden_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="Install it with: make install-models"):
        loading.load("imagenet2012")


def test_no_size_is_refused():
    with pytest.raises(ValueError, match="image_size is 0; it must be at least 1"):
        loading.load("imagenet2012", image_size=0)


@pytest.mark.usefixtures("official")
def test_held_out_is_the_middle(tmp_path: Path):
    loaded = load(tmp_path, image_size=32)
    assert (loaded.shape, loaded.classes, loaded.examples) == ((32, 32, 3), 1000, 20)
    assert loaded.splits == ("validation",)
    images, labels = (np.concatenate(parts) for parts in zip(*loaded.held_out(4), strict=True))
    assert labels.tolist() == list(range(10))
    assert images.dtype == np.float32
    for number, image in enumerate(images):
        height, width = 40 + 3 * number, 90 - 2 * number
        edge = (width - 0.875 * min(height, width)) / 2 / width
        assert image[16, 0, 0] == pytest.approx(edge, abs=0.04)
        assert image[16, -1, 0] == pytest.approx(1 - edge, abs=0.04)
        assert image[16, 16, 2] == pytest.approx(10 * number / 255, abs=0.02)


@pytest.mark.usefixtures("official")
def test_full_size_is_that_of_inception(tmp_path: Path):
    assert load(tmp_path).shape == (299, 299, 3)


@pytest.mark.usefixtures("official")
def test_training_cuts_and_flips_by_the_seed(tmp_path: Path):
    loaded = load(tmp_path, image_size=16)

    def read(seed: int, count: int = 10) -> tuple[Any, Any]:
        batches = list(loaded.batches(16, seed=seed).take(count))
        return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))

    images, labels = read(1)
    again, same = read(1)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same)
    assert not np.array_equal(images, read(2)[0])
    assert sorted(labels[:20]) == list(range(20)) != labels[:20].tolist()
    assert images.min() >= 0 and 0.9 < images.max() <= 1
    np.testing.assert_allclose(images[:, 8, 8, 2], 10 * labels / 255, atol=0.03)
    slope = images[:, 8, -1, 0] - images[:, 8, 0, 0]
    assert 0.3 < np.mean(slope > 0) < 0.7
    of_one = images[labels == 5]
    assert len({image.tobytes() for image in of_one}) == len(of_one)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize("shards", [2, 4, 5])
def test_in_a_pass_shards_have_each_photograph_once(shards: int, tmp_path: Path):
    loaded = load(tmp_path, image_size=8)
    seen: list[int] = []
    for index in range(shards):
        part = len(loaded.source.splits["train"].shard(shards, index))
        batches = loaded.batches(1, seed=0, shards=shards, index=index).take(part)
        seen += [int(label[0]) for _, label in batches]
    assert sorted(seen) == list(range(20))


@pytest.mark.usefixtures("official")
def test_corrupt_photographs(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    loaded = load(tmp_path / "skip", bad=(2, 7), image_size=8, on_corrupt="skip")
    seen = [int(label) for _, labels in loaded.batches(4, seed=0).take(20) for label in labels]
    assert 7 not in seen
    assert capfd.readouterr().err.count("imagenet2012-train.tfrecord-00001__1") == 1
    seen = [int(label) for _, labels in loaded.held_out(4) for label in labels]
    assert seen == [0, 1, 3, 4, 5, 6, 8, 9]
    loaded = load(tmp_path / "fail", bad=(7,), image_size=8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"imagenet2012-validation.*-00001__1"):
        list(loaded.held_out(4))


@pytest.mark.usefixtures("official")
def test_windows_lie_in_the_photograph():
    shapes = tf.constant([[40, 90, 3], [2, 2, 3], [300, 20, 3], [500, 375, 3]] * 25)
    drawn = tf.data.Dataset.from_tensor_slices(shapes).map(lambda s: (s, *imagenet.drawn(s, 3)))
    areas = []
    for (height, width, _), (top, left, rows, columns), _ in drawn.as_numpy_iterator():
        assert 0 <= top < top + rows <= height
        assert 0 <= left < left + columns <= width
        areas.append(rows * columns / (height * width))
    big = np.array(areas[3::4])
    assert 0.07 < big.min() < 0.3 and 0.7 < big.max() <= 1
