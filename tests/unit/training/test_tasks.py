from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.data.dataset import Data
from models.data.vocabulary import Vocabulary
from scripts.training import presets
from scripts.training.presets import MODELS
from scripts.training.tasks import Task


class Nothing:
    """Source that is never read."""

    parallel = 1

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        raise AssertionError

    def held_out(self, split: str, shards: int, index: int) -> tf.data.Dataset:
        raise AssertionError


class Black(Nothing):
    """Source of black images, labelled with their shard."""

    def train(self, seed: int, shards: int, index: int) -> tf.data.Dataset:
        image = np.zeros((8, 8, 1), np.float32)
        return tf.data.Dataset.from_tensors((image, np.int64(index))).repeat()


def images(height: int, channels: int, source: Any = None) -> Data:
    shape = (height, height, channels)
    return Data(f"images {shape}", shape, 10, 100, ("test",), source or Nothing())


def text() -> Data:
    vocabulary = Vocabulary.characters("a tale of two tests")
    return Data("tales", (8,), len(vocabulary), 100, ("test",), Nothing(), vocabulary, 5.0)


FITS = {
    "small_cnn": images(8, 1),
    "mnist_cnn": images(28, 1),
    "inception_v3": images(32, 3),
    "pixelcnn": images(8, 3),
    "char_lstm": text(),
    "word_lstm": text(),
    "draw": images(28, 1),
}


@pytest.mark.parametrize("model", MODELS)
def test_small_recipes_models_are_built_and_checked(model: str) -> None:
    task = Task(model, FITS[model], presets.find(model, "small").sizes)
    task.check()
    compiled = task.compile(keras.optimizers.SGD())
    assert compiled.trainable_variables


@pytest.mark.parametrize("model", MODELS)
def test_text_and_images_are_not_mixed(model: str) -> None:
    is_text = model in ("char_lstm", "word_lstm")
    wants, has = ("text", "images") if is_text else ("images", "text")
    with pytest.raises(ValueError, match=f"{model} is a model of {wants}, but .* has {has}"):
        Task(model, images(28, 1) if is_text else text())


@pytest.mark.parametrize(
    ("model", "data", "sizes", "message"),
    [
        ("small_cnn", images(3, 1), {}, "small_cnn needs 4 x 4 or more"),
        ("mnist_cnn", images(8, 1), {}, "need 16 x 16 or more"),
        ("inception_v3", images(32, 3), {}, "this Inception v3 needs 75 x 75"),
        ("inception_v3", images(8, 1), {"small_images": True}, "needs 13 x 13"),
        ("pixelcnn", images(8, 3), {"features": 32}, "features is 32 .* multiple of the channels"),
        ("draw", images(28, 3), {}, "images have 3 channels, but DRAW"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    model: str, data: Data, sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Task(model, data, sizes).check()


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ValueError, match="the model is 'resnet'; the known ones are small_cnn, mn"):
        Task("resnet", text())


def test_checking_leaves_no_variable_and_no_name_behind() -> None:
    keras.backend.clear_session()
    Task("small_cnn", images(8, 1)).check()
    task = Task("small_cnn", images(8, 1))
    model = task.compile(keras.optimizers.SGD())
    assert all(isinstance(each.numpy(), np.ndarray) for each in model.weights)


def test_only_some_models_change_their_images() -> None:
    plain = next(iter(Task("small_cnn", images(8, 1, Black())).batches(4, 0, 3, 2)))
    assert plain[0].shape == (4, 8, 8, 1)
    assert list(plain[1].numpy()) == [2] * 4
    assert hasattr(Task("inception_v3", images(32, 3)).module, "augmented")
    assert not hasattr(Task("small_cnn", images(8, 1)).module, "augmented")
