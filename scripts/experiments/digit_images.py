"""Images of digits in memory, and the narrow network of section 2.1 that is trained on them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # of NumPy


@dataclasses.dataclass(frozen=True)
class Subset:
    """Data and network, as settings of an experiment.

    Attributes:
      dataset: name of a data set of images.
      examples: number of training examples; the first of a shuffled order.
      held_out: number of test examples.
      channels: filters of each layer of `models.mnist_cnn`.
    """

    dataset: str
    examples: int
    held_out: int
    channels: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Images:
    """Images, [examples, height, width, channels] float32, and labels, [examples] int64."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array


@functools.lru_cache(maxsize=2)
def load(subset: Subset, data_dir: str | None) -> Images:
    """Return the images.

    Raises:
      FileNotFoundError: if the data set is missing; the message says how to get it.
    """
    from models.data import loading

    data = loading.load(subset.dataset, data_dir)
    train = data.batches(min(500, subset.examples), seed=0)
    x, y = _first(train, subset.examples)
    test_x, test_y = _first(data.held_out(500, split="test"), subset.held_out)
    return Images(x, y, test_x, test_y)


@functools.lru_cache(maxsize=2)
def standardized(subset: Subset, data_dir: str | None) -> Images:
    """Return the images, standardized with the mean and the deviation of the training images.

    Digits may be bright on dark or dark on bright: some copies of MNIST are inverted, and without
    this a network that learns from one may not learn from the other.
    """
    images = load(subset, data_dir)
    mean, deviation = images.x.mean(), images.x.std()
    x, test_x = (images.x - mean) / deviation, (images.test_x - mean) / deviation
    return Images(x, images.y, test_x, images.test_y)


def prepare(subset: Subset, data_dir: str | None, intra_op: int) -> None:
    """Load the images, and limit the threads of TensorFlow."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    load(subset, data_dir)


def network(subset: Subset, images: Images, optimizer: Any, seed: int) -> Any:
    """Return a new compiled network, whose weights depend on the seed only."""
    import keras

    from models import mnist_cnn

    keras.utils.set_random_seed(seed)
    model = mnist_cnn.build(images.x.shape[1:], 10, subset.channels)
    model.compile(optimizer, jit_compile=False, **mnist_cnn.compile_arguments())
    return model


def batches(images: Images, batch_size: int, seed: int) -> Callable[[Any], Any]:
    """Return a function from a worker's `tf.distribute.InputContext` to its batches.

    Each worker has a part of the images, endlessly and in a new order in each pass.
    """
    import tensorflow as tf

    def of_worker(context: Any) -> Any:
        index, workers = context.input_pipeline_id, context.num_input_pipelines
        own = tf.data.Dataset.from_tensor_slices(
            (images.x[index::workers], images.y[index::workers])
        )
        own = own.shuffle(len(images.y) // workers + 1, seed=1000 * seed + index)
        return own.repeat().batch(batch_size, drop_remainder=True)

    return of_worker


def error_of(model: Any, images: Images) -> float:
    """Return the share of test images that are classified wrongly; 1 if the network has NaN."""
    logits = model.predict_on_batch(images.test_x)
    wrong = np.argmax(logits, axis=1) != images.test_y
    return float(np.mean(wrong | ~np.isfinite(logits).all(axis=1)))


def _first(batches: Any, count: int) -> tuple[Array, Array]:
    found: list[tuple[Array, Array]] = []
    for x, y in batches.as_numpy_iterator():
        found.append((x, y))
        if sum(len(labels) for _, labels in found) >= count:
            break
    return np.concatenate([x for x, _ in found])[:count], np.concatenate([y for _, y in found])[
        :count
    ]
