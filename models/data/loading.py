"""Loading of data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from models.data import imagenet, images, sentences, text
from models.data.dataset import Data

NAMES = (
    "digits",
    "mnist",
    "cifar10",
    "imagenet2012",
    "imagenet_resized/32x32",
    "imagenet_resized/64x64",
    "topics",
    "tiny_shakespeare",
    "lm1b",
)


def load(
    name: str,
    data_dir: str | None = None,
    *,
    download: bool = False,
    image_size: int | None = None,
    steps: int = 64,
    of_words: bool = False,
    vocabulary: int | None = None,
    on_corrupt: str = "fail",
) -> Data:
    """Return a data set by name; download it only if `download` is set.

    Args:
      name: one of `NAMES`.
      data_dir: directory of tensorflow-datasets' data sets; None for its default.
      download: whether to download the data set if it is missing.
      image_size: height and width of the images of imagenet2012; None for 299. Images of other
        data sets keep their size.
      steps: number of tokens in a window of text, without the last one, which is only a target.
      of_words: whether tokens are words; otherwise characters.
      vocabulary: maximum size of a vocabulary of words; None for 10,000, or 100,000 for lm1b.
      on_corrupt: what to do with a record that cannot be decoded: "fail", or "skip" it with a
        warning. A damaged file is always an error.

    Raises:
      ValueError: if the data set is unknown, or an argument does not apply to it.
      FileNotFoundError: if the data set is missing; the message says how to get it.
      ModuleNotFoundError: if imagenet2012 is loaded without the TensorFlow model garden.
    """
    if name not in NAMES:
        raise ValueError(f"the data set is {name!r}; the known ones are {', '.join(NAMES)}.")
    if on_corrupt not in ("fail", "skip"):
        raise ValueError(f"on_corrupt is {on_corrupt!r}; it must be 'fail' or 'skip'.")
    if image_size is not None and name != "imagenet2012":
        raise ValueError(
            f"image_size is {image_size}, but only imagenet2012's images are resized, not those of "
            f"{name}. Leave it out."
        )
    if vocabulary is not None and not of_words:
        raise ValueError(
            f"vocabulary is {vocabulary}, but of characters all are known. Leave it out, or let "
            "tokens be words."
        )
    prepared: dict[str, Any] = {"data_dir": data_dir, "download": download}
    checked: dict[str, Any] = {**prepared, "on_corrupt": on_corrupt}
    tokens: dict[str, Any] = {"steps": steps, "of_words": of_words, "size": vocabulary}
    loaders: dict[str, Callable[[], Data]] = {
        "digits": images.digits,
        "imagenet2012": partial(imagenet.imagenet2012, image_size=image_size, **checked),
        "topics": partial(text.topics, **tokens),
        "tiny_shakespeare": partial(text.tiny_shakespeare, **prepared, **tokens),
        "lm1b": partial(sentences.lm1b, **checked, **tokens),
    }
    return loaders.get(name, partial(images.from_files, name, **checked))()
