"""Data sets prepared by tensorflow-datasets: found on disk, or downloaded on request."""

from __future__ import annotations

import os
from typing import Any

MANUAL = {
    "imagenet2012": "Register at https://image-net.org/download-images and put "
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {manual}; then "
}


def builder(name: str, data_dir: str | None, download: bool) -> Any:
    """Return the tensorflow-datasets builder of a data set on disk, in any version.

    Args:
      name: name in tensorflow-datasets.
      data_dir: directory of tensorflow-datasets' data sets; None for its default.
      download: whether to download and prepare a missing data set; otherwise the network is not
        used.

    Raises:
      FileNotFoundError: if the data set is missing; the message says how to get it.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        maker = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    manual = os.path.join(maker.data_dir_root, "downloads", "manual")
    if download:
        try:
            maker.download_and_prepare()
        except AssertionError as error:  # Raised by tensorflow-datasets for missing archives.
            if name not in MANUAL:
                raise
            raise FileNotFoundError(_how(name, maker.data_dir, manual)) from error
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    raise FileNotFoundError(_how(name, maker.data_dir, manual))


def _how(name: str, directory: Any, manual: str) -> str:
    by_hand = MANUAL.get(name, "").format(manual=manual)
    get = "run scripts/train.py with --download on a machine with a network"
    if by_hand:
        get = "run scripts/train.py with --download"
    remedy = by_hand + get if by_hand else get[0].upper() + get[1:]
    return f"data set {name!r} is not at {directory}. {remedy}, or point --data_dir to where it is."
