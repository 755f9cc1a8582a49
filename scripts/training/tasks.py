"""Model and data set together: a check that they fit, the compiled model, and its batches."""

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
    """A model and the data set that it is trained on.

    Args:
      model: name of the model, one of `presets.MODELS`.
      data: data set to train on.
      sizes: arguments of the model's `build`.

    Raises:
      ValueError: if the model is unknown, or the data does not fit it.
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
        """Module of `models` that defines the model."""
        name = "language_model" if self.model in _TEXT else self.model
        return importlib.import_module(f"models.{name}")

    def check(self) -> None:
        """Check that the model can be built, by building it in a graph that is thrown away.

        This does not initialize TensorFlow, so that a cluster can still be connected.

        Raises:
          ValueError: if the model cannot be built for images of this shape.
        """
        import tensorflow as tf

        if not self.data.is_text:  # Models of text can be built for any size.
            with tf.Graph().as_default():
                self.build()

    def build(self) -> Any:
        """Return the uncompiled model, with all its variables."""
        data = self.data
        if self.model in _TEXT:
            per_word = {"characters_per_word": data.characters_per_word}
            return self.module.build(data.classes, _TEXT[self.model], **per_word, **self.sizes)
        if self.model in ("pixelcnn", "draw"):
            return self.module.build(data.shape, **self.sizes)
        return self.module.build(data.shape, data.classes, **self.sizes)

    def compile(self, optimizer: Any) -> Any:
        """Return the model, compiled with an optimizer."""
        model = self.build()
        model.compile(optimizer=optimizer, **self.module.compile_arguments())
        return model

    def batches(self, batch_size: int, seed: int, shards: int = 1, index: int = 0) -> Any:
        """Return the endless training batches of a shard, as a data set."""
        batches = self.data.batches(
            batch_size, seed=seed, shards=shards, index=index, prepare=self.module.prepare
        )
        augmented = getattr(self.module, "augmented", None)
        return batches if augmented is None else augmented(batches, seed * 1000 + index)

    def held_out(
        self, batch_size: int, split: str | None = None, shards: int = 1, index: int = 0
    ) -> Any:
        """Return the batches of a shard of the held-out data, with each example once."""
        return self.data.held_out(
            batch_size, split=split, shards=shards, index=index, prepare=self.module.prepare
        )
