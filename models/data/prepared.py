"""A data set that tensorflow-datasets has prepared: found on disk, or got if wanted."""

from __future__ import annotations

import os
from typing import Any

MANUAL = {
    "imagenet2012": "Register at https://image-net.org/download-images and put "
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {manual}; then "
}


def builder(name: str, data_dir: str | None, download: bool) -> Any:
    """Returns tensorflow-datasets' builder of a data set on disk, of whatever version is there.

    Args:
      name: as tensorflow-datasets knows it.
      data_dir: where it keeps its data sets; None for its own default.
      download: whether to get and prepare it if it is not there; else the network is not touched.

    Raises:
      FileNotFoundError: if it is not there, saying how to get it.
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
        except AssertionError as error:  # What tensorflow-datasets raises for missing archives.
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
