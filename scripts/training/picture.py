"""Picture of many small images, as a PNG file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf


def write(path: str, images: Any) -> None:
    """Write images side by side, in about as many rows as columns.

    Args:
      path: path of the PNG file.
      images: [count, height, width, 1 or 3] float32 in [0, 1].

    Raises:
      ValueError: if the images have another shape, or there are none.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images have the shape {images.shape}, but a picture is made of [count, height, "
            "width, 1 or 3]. Give all images the axes of images, and at least one image."
        )
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    _, height, width, channels = images.shape
    # Dark lines separate the images, and missing images are dark.
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        levels = np.rint(np.clip(image, 0, 1) * 255)
        sheet[top : top + height, left : left + width] = levels.astype(np.uint8)
    tf.io.write_file(path, tf.io.encode_png(sheet))
