"""Small data sets in files, as tensorflow-datasets writes them: names, features and splits."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

GARBAGE = b"this is no image"


def write(directory: Path, name: str, splits: dict[str, list[Any]], per_file: int = 1000) -> Path:
    """Write a data set with `per_file` examples in a file; return the directory of its files."""
    info = tfds.builder(name, data_dir=directory, try_gcs=False).info
    where = Path(info.data_dir)
    where.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=per_file)
    writer.initialize_splits(list(splits))
    writer.add_examples({name: list(map(_readable, each)) for name, each in splits.items()})
    writer.close_all()
    return where


def numbered(count: int, shape: tuple[int, int, int] = (28, 28, 1)) -> list[dict[str, Any]]:
    """Return images whose pixels all have the image's number, by which they are recognized."""
    return [
        {"image": np.full(shape, number, np.uint8), "label": number % 10} for number in range(count)
    ]


def numbers(dataset: tf.data.Dataset, batches: int | None = None) -> list[list[int]]:
    """Return the numbers of images, by batch."""
    dataset = dataset if batches is None else dataset.take(batches)
    return [np.round(batch[0][:, 0, 0, 0] * 255).astype(int).tolist() for batch in dataset]


def flat(parts: list[list[Any]]) -> list[Any]:
    """Return the items of several lists as one list."""
    return list(itertools.chain.from_iterable(parts))


def corrupted(example: dict[str, Any], content: bytes = GARBAGE) -> dict[str, Any]:
    """Return an example with other bytes for its image."""
    return {**example, "image": content}


def jpeg(image: np.ndarray[Any, Any]) -> bytes:
    """Return an image, [height, width, 3] uint8, as a JPEG file."""
    content: bytes = tf.io.encode_jpeg(image, quality=100).numpy()
    return content


def _readable(example: dict[str, Any]) -> dict[str, Any]:
    """Return an example with its files as file objects, which tensorflow-datasets reads."""
    return {
        name: io.BytesIO(value) if isinstance(value, bytes) else value
        for name, value in example.items()
    }
