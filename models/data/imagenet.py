"""ImageNet, with photographs cropped and resized as for Inception.

The crops are those of tf-models-official (`official.vision.ops.preprocess_ops`), which uses a
stateful random generator: crops would depend on the order of parallel decoding. So arrays of pixel
indices are cropped first, one photograph after the other, which is cheap. Then only the cropped
pixels are decoded, in parallel. Thus the same seed gives the same crops.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models.data import corrupt
from models.data.dataset import Data
from models.data.prepared import builder
from models.data.stored import Record, Records
from models.tensor import Tensor

SIZE = 299
BUFFER = 1024  # Photographs in a shuffle buffer; each is 110 kB.
CHUNK = 16  # Resized images in a chunk; each is 1 MB.


class Photograph(NamedTuple):
    """A JPEG file with its label and shape, or a chunk of them.

    Attributes:
      jpeg: [] string.
      label: [] int64.
      shape: height, width and channels, [3] int32.
    """

    jpeg: Tensor
    label: Tensor
    shape: Tensor


@dataclasses.dataclass(frozen=True)
class Photographs:
    """Photographs in files of tensorflow-datasets, which are never all in memory.

    Attributes:
      splits: the records of each split.
      features: features of tensorflow-datasets, which parse a record.
      size: height and width of images.
      on_corrupt: see `corrupt.decoded`.
      parallel: number of parallel calls.
    """

    splits: dict[str, Records]
    features: Any
    size: int
    on_corrupt: str
    parallel: int = tf.data.AUTOTUNE

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        """Return the training examples of a shard, endlessly, cropped and flipped at random."""
        records = self.splits["train"].shard(shards, index)
        chunks = records.shuffled(seed, BUFFER, False, self.parallel)
        state = int(np.random.default_rng([seed, shards, index]).integers(1, 2**31 - 1))

        def draw(record: Record) -> Record:
            return record._replace(data=(record.data, *drawn(record.data.shape, state)))

        def cut(data: Any) -> tuple[Tensor, Tensor]:
            photograph, window, flip = data
            image = tf.image.decode_and_crop_jpeg(photograph.jpeg, window, channels=3)
            image = tf.cond(flip, lambda: tf.image.flip_left_right(image), lambda: image)
            return self._resized(image), photograph.label

        chunks = self._decoded(chunks, self._parse, records).unbatch().map(draw).batch(CHUNK)
        return self._decoded(chunks, cut, records).map(lambda chunk: chunk.data).unbatch()

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        """Return a shard of a split in order, cropped to the central 87.5 % of the shorter side."""
        from official.vision.ops import preprocess_ops

        records = self.splits[split].shard(shards, index, may_be_empty=True)

        def cut(record: Tensor) -> tuple[Tensor, Tensor]:
            jpeg, label, shape = self._parse(record)
            return self._resized(preprocess_ops.center_crop_image_v2(jpeg, shape)), label

        chunks = records.once(self.parallel).unbatch().batch(CHUNK)
        return self._decoded(chunks, cut, records).map(lambda chunk: chunk.data).unbatch()

    def _decoded(self, chunks: Any, decode: Any, records: Records) -> tf.data.Dataset:
        return corrupt.decoded(chunks, decode, records, self.on_corrupt, self.parallel)

    def _parse(self, record: Tensor) -> Photograph:
        import tensorflow_datasets as tfds

        skip = {"image": tfds.decode.SkipDecoding()}
        example = self.features.deserialize_example(record, decoders=skip)
        shape = tf.ensure_shape(tf.image.extract_jpeg_shape(example["image"]), [3])
        return Photograph(example["image"], example["label"], shape)

    def _resized(self, image: Tensor) -> Tensor:
        """Return a [height, width, 3] uint8 image as [size, size, 3] float32 in [0, 1]."""
        image = tf.image.resize(image, [self.size, self.size]) / 255.0
        return tf.ensure_shape(image, [self.size, self.size, 3])


def drawn(shape: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return a random crop window of a photograph, and whether to flip it.

    Args:
      shape: height, width and channels, [3] int32.
      seed: seed of the random state.

    Returns:
      Top, left, height and width, [4] int32, and whether to flip, [] bool.
    """
    from official.vision.ops import preprocess_ops

    height, width = shape[0], shape[1]
    pixels = tf.reshape(tf.range(height * width), [height, width, 1])
    crop = preprocess_ops.random_crop_image(pixels, seed=seed)
    # If no crop was found, take the centre, as the model garden does.
    everything = tf.reduce_all(tf.equal(tf.shape(crop), tf.shape(pixels)))
    middle = preprocess_ops.center_crop_image
    crop = tf.cond(everything, lambda: middle(pixels), lambda: crop)
    flipped, _, _ = preprocess_ops.random_horizontal_flip(crop, seed=seed + 1)
    first, size = crop[0, 0, 0], tf.shape(crop)
    window = tf.stack([first // width, first % width, size[0], size[1]])
    return window, tf.not_equal(flipped[0, 0, 0], first)


def imagenet2012(
    data_dir: str | None, download: bool, image_size: int | None, on_corrupt: str
) -> Data:
    """Return 1.28 million photographs in 1,000 classes, from tensorflow-datasets.

    Raises:
      ModuleNotFoundError: if the TensorFlow model garden is not installed.
      ValueError: if `image_size` is less than 1.
    """
    size = SIZE if image_size is None else image_size
    if size < 1:
        raise ValueError(f"image_size is {size}; it must be at least 1.")
    if importlib.util.find_spec("official") is None:
        raise ModuleNotFoundError(
            "imagenet2012 is cut by the TensorFlow model garden (tf-models-official), which is not "
            "installed. Install it with: make install-models"
        )
    info = builder("imagenet2012", data_dir, download)
    # The labels of the test split are not public.
    names = [name for name in ("train", "validation") if name in info.info.splits]
    splits = {name: Records.of_split(info, name) for name in names}
    source = Photographs(splits, info.info.features, size, on_corrupt)
    classes = info.info.features["label"].num_classes
    examples = len(splits["train"])
    return Data("imagenet2012", (size, size, 3), classes, examples, ("validation",), source)
