from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from models.data import loading
from tests.unit.prepared_data import GARBAGE, corrupted, flat, numbered, numbers, write

pytestmark = pytest.mark.slow  # Computes for seconds.

EXAMPLES = 150
BAD = (0, 70, 71, 149)


def mnist(directory: Path, on_corrupt: str, bad: tuple[int, ...] = BAD) -> loading.Data:
    examples = numbered(EXAMPLES)
    for place in bad:
        examples[place] = corrupted(examples[place])
    write(directory, "mnist", {"train": examples, "test": examples}, per_file=100)
    return loading.load("mnist", str(directory), on_corrupt=on_corrupt)


def named(split: str, file: int, number: int) -> str:
    return f"mnist-{split}.tfrecord-{file:05}__{number}"


def test_a_corrupt_record_is_an_error_that_names_it(tmp_path: Path):
    loaded = mnist(tmp_path, "fail", bad=(130,))
    assert numbers(loaded.held_out(32), 3)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        numbers(loaded.held_out(32))
    message = f"split test: corrupt, cannot be decoded: {named('test', 1, 30)}. Get"
    assert message in error.value.message
    assert "mnist/" in error.value.message
    assert "--on_corrupt=skip" in error.value.message


def test_skipped_records_are_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    loaded = mnist(tmp_path, "skip")
    batches = loaded.batches(10, seed=0, shards=1, index=0)
    seen = flat(numbers(batches, 4 * EXAMPLES // 10))
    assert set(seen) == set(range(EXAMPLES)) - set(BAD)
    err = capfd.readouterr().err
    for place in BAD:
        assert err.count(named("train", place // 100, place % 100)) == 1
    assert err.count("__") == len(BAD)
    assert "WARNING: mnist/" in err and "split train: corrupt, left out" in err


def test_the_others_are_held_out_in_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    loaded = mnist(tmp_path, "skip")
    assert flat(numbers(loaded.held_out(32))) == sorted(set(range(EXAMPLES)) - set(BAD))
    assert capfd.readouterr().err.count(named("test", 0, 70)) == 1


@pytest.mark.parametrize("content", [b"", GARBAGE, "cut short", "of another size"])
def test_kinds_of_corruption(content: bytes | str, tmp_path: Path):
    image = tf.io.encode_png(tf.zeros([28, 28, 1], tf.uint8)).numpy()
    if content == "cut short":
        content = image[: len(image) // 2]
    elif content == "of another size":
        content = tf.io.encode_png(tf.zeros([7, 28, 1], tf.uint8)).numpy()
    examples = [*numbered(3), corrupted(numbered(1)[0], content)]
    write(tmp_path, "mnist", {"train": examples, "test": examples})
    loaded = loading.load("mnist", str(tmp_path), on_corrupt="skip")
    assert numbers(loaded.held_out(9)) == [[0, 1, 2]]


def test_a_data_set_that_is_all_corrupt_is_an_error_and_no_endless_search(tmp_path: Path):
    loaded = mnist(tmp_path, "skip", bad=tuple(range(EXAMPLES)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="in a row are corrupt"):
        numbers(loaded.batches(4, seed=0), 1)
