"""A model on a data set: whether they fit, how to build and compile it, how it reads examples."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from models.data.dataset import Data
from scripts.training.presets import MODELS

_TEXT = {"char_lstm": False, "word_lstm": True}  # Whether a token is a word.


@dataclasses.dataclass(frozen=True)
class Task:
    """A model by name, on a data set.

    Args:
      model: one of `recipes.MODELS`.
      data: what it is trained on.
      sizes: arguments of the model's `build`.

    Raises:
      ValueError: if the data does not fit the model.
    """

    model: str
    data: Data
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(
                f"the model is {self.model!r}; the known ones are {', '.join(MODELS)}."
            )
        wants = "text" if self.model in _TEXT else "images"
        has = "text" if self.data.is_text else "images"
        if wants != has:
            raise ValueError(
                f"{self.model} is a model of {wants}, but the data set {self.data.name} has {has}. "
                f"Choose a data set of {wants}."
            )

    @property
    def module(self) -> Any:
        """The module of `models` that has the model."""
        name = "language_model" if self.model in _TEXT else self.model
        return importlib.import_module(f"models.{name}")

    def check(self) -> None:
        """Builds the model once in vain, leaving nothing behind, to find out whether it can be.

        TensorFlow is not initialised by it, so that a cluster can still be connected.

        Raises:
          ValueError: if the model cannot be built of such images.
        """
        import tensorflow as tf

        if not self.data.is_text:  # Of text every size will do.
            with tf.Graph().as_default():
                self.build()

    def build(self) -> Any:
        """Returns the uncompiled model, with all its variables."""
        data = self.data
        if self.model in _TEXT:
            per_word = {"characters_per_word": data.characters_per_word}
            return self.module.build(data.classes, _TEXT[self.model], **per_word, **self.sizes)
        if self.model in ("pixelcnn", "draw"):
            return self.module.build(data.shape, **self.sizes)
        return self.module.build(data.shape, data.classes, **self.sizes)

    def compile(self, optimizer: Any) -> Any:
        """Returns the model, compiled with an optimizer."""
        model = self.build()
        model.compile(optimizer=optimizer, **self.module.compile_arguments())
        return model

    def batches(self, batch_size: int, seed: int, shards: int = 1, index: int = 0) -> Any:
        """Returns the endless batches of a shard that the model trains on, as a data set."""
        batches = self.data.batches(
            batch_size, seed=seed, shards=shards, index=index, prepare=self.module.prepare
        )
        augmented = getattr(self.module, "augmented", None)
        return batches if augmented is None else augmented(batches, seed * 1000 + index)

    def held_out(
        self, batch_size: int, split: str | None = None, shards: int = 1, index: int = 0
    ) -> Any:
        """Returns the batches of a shard of what is held out, each example once."""
        return self.data.held_out(
            batch_size, split=split, shards=shards, index=index, prepare=self.module.prepare
        )
