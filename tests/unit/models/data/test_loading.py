"""models/data/loading.py, and properties that all data sets share."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from models import language_model, pixelcnn
from models.data import loading
from tests.unit.prepared_data import flat

pytestmark = pytest.mark.slow  # Computes for seconds.

EMBEDDED = ("digits", "topics")


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("tried to download")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)


def first(dataset: tf.data.Dataset, count: int = 3) -> list[Any]:
    return [[part.numpy().tolist() for part in batch] for batch in dataset.take(count)]


@pytest.mark.parametrize("name", EMBEDDED)
def test_same_arguments_give_same_batches(name: str):
    loaded = loading.load(name, steps=5)
    arguments = {"seed": 4, "shards": 3, "index": 1}
    assert first(loaded.batches(4, **arguments)) == first(loaded.batches(4, **arguments))


@pytest.mark.parametrize("other", [{"seed": 5}, {"index": 0}, {"shards": 2}])
@pytest.mark.parametrize("name", EMBEDDED)
def test_other_arguments_give_other_batches(name: str, other: dict[str, int]):
    loaded = loading.load(name, steps=5)
    arguments = {"seed": 4, "shards": 3, "index": 1}
    assert first(loaded.batches(4, **arguments)) != first(
        loaded.batches(4, **{**arguments, **other})
    )


def test_digits_of_all_shards_are_all_digits_in_each_pass():
    loaded = loading.load("digits")
    sizes = [len(range(index, loaded.examples, 3)) for index in range(3)]
    passes: list[list[bytes]] = [[], []]
    for index, size in enumerate(sizes):
        images = loaded.batches(1, seed=0, shards=3, index=index).map(lambda image, label: image)
        seen = [image.tobytes() for image in images.take(2 * size).as_numpy_iterator()]
        assert seen[:size] != seen[size:]
        passes[0] += seen[:size]
        passes[1] += seen[size:]
    (train,) = [images for split, (images, _) in loaded.source.splits.items() if split == "train"]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(image.tobytes() for image in train)


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("name", EMBEDDED)
def test_shards_have_each_held_out_example_once(name: str, shards: int):
    loaded = loading.load(name, steps=50)

    def examples(index: int, shards: int) -> list[bytes]:
        batches = loaded.held_out(7, shards=shards, index=index)
        return [example.tobytes() for batch in batches for example in batch[0].numpy()]

    parts = [examples(index, shards) for index in range(shards)]
    assert sorted(flat(parts)) == sorted(examples(0, 1))
    if shards == 1:
        assert parts[0] == examples(0, 1)


def test_digits():
    loaded = loading.load("digits")
    assert (loaded.shape, loaded.classes, loaded.examples) == ((8, 8, 1), 10, 1438)
    assert loaded.splits == ("test",)
    assert not loaded.is_text
    image, label = next(iter(loaded.batches(16, seed=0)))
    assert (image.shape, image.dtype, label.dtype) == ([16, 8, 8, 1], tf.float32, tf.int64)
    assert np.min(image) >= 0 and np.max(image) == 1
    assert [len(label) for _, label in loaded.held_out(100)] == [100, 100, 100, 59]


def test_topics():
    loaded = loading.load("topics", steps=20)
    assert loaded.shape == (20,)
    assert loaded.splits == ("validation",)
    assert loaded.is_text
    assert loaded.classes == len(loaded.vocabulary)
    (window,) = next(iter(loaded.batches(16, seed=0)))
    assert (window.shape, window.dtype) == ([16, 21], tf.int32)
    assert np.min(window) >= 0 and np.max(window) < loaded.classes


def test_models_prepare_single_examples():
    image, target = next(iter(loading.load("digits").batches(4, seed=0, prepare=pixelcnn.prepare)))
    assert image.shape == target.shape == [4, 8, 8, 1]
    topics = loading.load("topics", steps=6)
    inputs, targets = next(iter(topics.held_out(4, prepare=language_model.prepare)))
    assert inputs.shape == targets.shape == [4, 6]
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])


def test_load_makes_no_function(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tf, "function", lambda *args, **kwargs: pytest.fail("tf.function"))
    monkeypatch.setattr(tf.data.Dataset, "map", lambda *args, **kwargs: pytest.fail("map"))
    for name in EMBEDDED:
        loading.load(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, "the data set is 'cifar'; the known ones are digits, mnist, cifar10"),
        ({"on_corrupt": "keep"}, "on_corrupt is 'keep'; it must be 'fail' or 'skip'"),
        ({"image_size": 64}, "image_size is 64, but only imagenet2012's images are resized"),
        ({"vocabulary": 9}, "vocabulary is 9, but of characters all are known"),
        ({"name": "topics", "steps": 0}, "steps is 0; it must be at least 1"),
        ({"name": "topics", "steps": 10**6}, "split 'validation', below its"),
        ({"name": "topics", "of_words": True, "vocabulary": 2}, "there would be no words"),
        ({"name": "lm1b", "steps": 0}, "steps is 0; it must be at least 1"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        loading.load(**{"name": "digits", **arguments})
    assert message in str(error.value)


def test_shards_and_splits_that_are_not_there_are_refused():
    loaded = loading.load("digits")
    with pytest.raises(ValueError, match="no shard 2 of 2 of digits"):
        loaded.batches(4, seed=0, shards=2, index=2)
    with pytest.raises(ValueError, match="no split 'train', only test"):
        loaded.held_out(4, split="train")
    with pytest.raises(ValueError, match="there are 1438 examples, too few for 1439 shards"):
        loaded.batches(4, seed=0, shards=1439, index=0)


@pytest.mark.parametrize("name", loading.NAMES)
def test_every_name_has_a_loader(name: str, tmp_path: pathlib.Path):
    try:
        assert loading.load(name, str(tmp_path)).name == name
    except (FileNotFoundError, ModuleNotFoundError) as error:  # It is not in this directory.
        assert name.partition("/")[0] in str(error)
