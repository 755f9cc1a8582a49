"""models/data/stored.py and models/data/images.py: shards, orders and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models.data import loading
from tests.extra import with_extra
from tests.unit.prepared_data import corrupted, flat, jpeg, numbered, numbers, write

pytestmark = pytest.mark.slow  # Computes for seconds.

EXAMPLES = 23
SHARDS_AND_FILES = [(1, 1), (3, 1), (3, 2), (3, 3), (2, 5), (4, 8), (8, 8)]
SIMILAR = [(1, 1), (3, 1), (3, 3), (2, 5), (8, 8)]


def mnist(directory: Path, files: int = 1, **arguments: str) -> loading.Data:
    return load("mnist", (28, 28, 1), directory, files, **arguments)


def streamed(directory: Path, files: int = 1, **arguments: str) -> loading.Data:
    """Return a data set that is read from files, as if too large for memory."""
    return load("imagenet_resized/32x32", (32, 32, 3), directory, files, **arguments)


def load(
    name: str, shape: tuple[int, int, int], directory: Path, files: int, **arguments: str
) -> loading.Data:
    splits = {"train": numbered(EXAMPLES, shape), "test": numbered(EXAMPLES, shape)}
    where = write(directory, name, splits, per_file=-(-EXAMPLES // files))
    assert len(list(where.glob("*-train*"))) == files
    return loading.load(name, str(directory), **arguments)


def sizes(loaded: loading.Data, shards: int) -> list[int]:
    return [len(loaded.source.splits["train"].shard(shards, index)) for index in range(shards)]


@pytest.mark.parametrize(("shards", "files"), with_extra(SHARDS_AND_FILES, *SIMILAR))
@pytest.mark.parametrize("load", [mnist, streamed])
def test_in_each_pass_shards_have_each_example_once(
    load: Any, shards: int, files: int, tmp_path: Path
):
    loaded = load(tmp_path, files)
    passes: list[list[int]] = [[], []]
    for index, size in enumerate(sizes(loaded, shards)):
        batches = loaded.batches(1, seed=2, shards=shards, index=index)
        seen = flat(numbers(batches, 2 * size))
        passes[0] += seen[:size]
        passes[1] += seen[size:]
    for seen in passes:
        assert sorted(seen) == list(range(EXAMPLES))


@pytest.mark.parametrize(("shards", "files"), with_extra(SHARDS_AND_FILES, *SIMILAR))
def test_held_out_shards_have_each_example_once_in_order(shards: int, files: int, tmp_path: Path):
    loaded = mnist(tmp_path, files)
    seen = [
        flat(numbers(loaded.held_out(4, shards=shards, index=index))) for index in range(shards)
    ]
    assert sorted(flat(seen)) == list(range(EXAMPLES))
    assert all(part == sorted(part) for part in seen)


@pytest.mark.parametrize("load", with_extra([mnist, streamed], mnist))
def test_orders_follow_from_the_arguments(load: Any, tmp_path: Path):
    loaded = load(tmp_path, files=6)

    def order(seed: int, index: int = 1) -> list[list[int]]:
        return numbers(loaded.batches(4, seed=seed, shards=2, index=index), 12)

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != order(1, index=0)
    one_pass = sizes(loaded, 2)[1]
    batches = order(1)
    seen = flat(batches)
    assert seen[:one_pass] != seen[one_pass : 2 * one_pass]
    assert all(len(batch) == 4 for batch in batches)


def test_only_the_own_shard_is_decoded(tmp_path: Path):
    examples = numbered(EXAMPLES)
    examples[::2] = [corrupted(example) for example in examples[::2]]
    write(tmp_path, "mnist", {"train": examples, "test": examples})
    loaded = loading.load("mnist", str(tmp_path))
    odd = loaded.batches(4, seed=0, shards=2, index=1)
    assert set(flat(numbers(odd, 20))) == set(range(1, EXAMPLES, 2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="corrupt"):
        numbers(loaded.batches(4, seed=0, shards=2, index=0), 1)


def test_small_data_sets_are_read_once(tmp_path: Path):
    loaded = mnist(tmp_path)
    batches = iter(loaded.batches(EXAMPLES, seed=0))
    next(batches)
    for path in tmp_path.glob("mnist/*/*tfrecord*"):
        path.unlink()
    for _ in range(20):
        assert len(next(batches)[0]) == EXAMPLES


def test_images_are_what_was_written(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    photograph = jpeg(np.full((32, 32, 3), 128, np.uint8))
    examples = [
        {"image": image, "label": 3, "id": "a"},
        {"image": photograph, "label": 4, "id": "b"},
    ]
    write(tmp_path, "cifar10", {"train": examples, "test": examples})
    loaded = loading.load("cifar10", str(tmp_path))
    assert (loaded.shape, loaded.classes, loaded.splits) == ((32, 32, 3), 10, ("test",))
    ((images, labels),) = loaded.held_out(4)
    np.testing.assert_allclose(images[0], image / 255.0, rtol=1e-6)
    np.testing.assert_allclose(images[1], np.full((32, 32, 3), 128 / 255), atol=1.5 / 255)
    assert labels.numpy().tolist() == [3, 4]


def test_resized_imagenet_has_labels_and_a_validation_split(tmp_path: Path):
    examples = numbered(5, (64, 64, 3))
    write(tmp_path, "imagenet_resized/64x64", {"train": examples, "validation": examples[:2]})
    loaded = loading.load("imagenet_resized/64x64", str(tmp_path))
    assert (loaded.shape, loaded.classes) == ((64, 64, 3), 1000)
    assert (loaded.examples, loaded.splits) == (5, ("validation",))
    assert numbers(loaded.held_out(4)) == [[0, 1]]


def test_too_many_shards_are_refused(tmp_path: Path):
    loaded = mnist(tmp_path)
    with pytest.raises(ValueError, match="has 23 examples, too few for 24 shards: shard 23 would"):
        loaded.batches(1, seed=0, shards=24, index=23)


def test_what_is_held_out_may_be_less_than_the_shards(tmp_path: Path):
    write(tmp_path, "mnist", {"train": numbered(3), "test": numbered(3)})
    loaded = loading.load("mnist", str(tmp_path))
    whole = numbers(loaded.held_out(1))
    shards = len(whole) + 1
    parts = [numbers(loaded.held_out(1, shards=shards, index=i)) for i in range(shards)]
    assert [batch for part in parts for batch in part] == whole
    assert parts[-1] == []


@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
@pytest.mark.parametrize("damage", ["truncated", "damaged", "empty"])
def test_a_damaged_file_is_named(damage: str, on_corrupt: str, tmp_path: Path):
    loaded = mnist(tmp_path, files=2, on_corrupt=on_corrupt)
    path = sorted(tmp_path.glob("mnist/*/mnist-test*"))[1]
    content = path.read_bytes()
    damaged = {
        "truncated": content[:-10],
        "damaged": content[:20] + b"??" + content[22:],
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        numbers(loaded.held_out(4))
    record = {"truncated": 10, "damaged": 0, "empty": 0}[damage]
    assert f"{path} is damaged or truncated: record {record}" in error.value.message
    assert "split test" in error.value.message


def test_a_missing_file_is_named(tmp_path: Path):
    loaded = mnist(tmp_path, files=2, on_corrupt="skip")
    path = sorted(tmp_path.glob("mnist/*/mnist-test*"))[1]
    path.unlink()
    with pytest.raises(tf.errors.NotFoundError) as error:
        numbers(loaded.held_out(4))
    assert str(path) in error.value.message
