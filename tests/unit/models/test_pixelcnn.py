from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import pixelcnn
from scripts.training import picture

pytestmark = pytest.mark.slow  # Computes for seconds.

RNG = np.random.default_rng(0)


def model_of(shape: tuple[int, int, int], **settings: Any) -> Any:
    keras.utils.set_random_seed(1)
    return pixelcnn.build(shape, **{"features": 60, "depth": 4, "size": 3, **settings})


def labelled(model: Any, images: np.ndarray) -> Any:
    if len(model.inputs) == 1:
        return images
    return {"image": images, "label": np.zeros(len(images), np.int32)}


# ---- What sees what ---------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("shape", [(4, 5, 3), (5, 4, 1)])
@pytest.mark.parametrize("size", [3, 5])
def test_a_value_changes_all_that_come_after_it_and_no_other(
    shape: tuple[int, int, int], size: int, classes: int | None
):
    """No value sees itself or a later one, and there is no blind spot."""
    model, count = model_of(shape, size=size, classes=classes), math.prod(shape)
    image = RNG.uniform(size=count).astype(np.float32)
    others = np.where(np.eye(count, dtype=bool), image + 0.3, image).astype(np.float32)
    images = np.concatenate([image[np.newaxis], others]).reshape(-1, *shape)
    logits = model(labelled(model, images)).numpy().reshape(1 + count, count, 256)
    changed = np.max(np.abs(logits[1:] - logits[:1]), axis=-1)  # [value changed, value seen]
    np.testing.assert_array_equal(changed > 1e-7, np.triu(np.ones([count, count], bool), k=1))


def test_reach_is_what_the_filters_have():
    model = model_of((7, 7, 1), depth=2)
    with tf.GradientTape() as tape:
        image = tf.constant(RNG.uniform(size=[1, 7, 7, 1]), tf.float32)
        tape.watch(image)
        seen = tf.reduce_sum(model(image)[0, 5, 3, 0] * RNG.normal(size=256).astype(np.float32))
    rows, columns = np.nonzero(tape.gradient(seen, image).numpy()[0, ..., 0])
    assert sorted(set(rows)) == [2, 3, 4, 5]  # The first layer's rows are one higher.
    assert columns[rows == 5].tolist() == [1, 2]


@pytest.mark.parametrize("stack", ["vertical", "horizontal"])
def test_class_changes_every_value_by_way_of_either_stack(stack: str):
    model = model_of((3, 3, 3), classes=2, depth=2)
    for layer in model.layers:
        if isinstance(layer, pixelcnn.GatedLayer):
            table = layer.of_class.embeddings
            vertical = np.arange(table.shape[1]) < table.shape[1] // 2
            table.assign(table * (vertical if stack == "vertical" else ~vertical))
    images = np.zeros([2, 3, 3, 3], np.float32)
    one, other = model({"image": images, "label": np.array([0, 1])}).numpy()
    assert np.all(np.any(np.abs(one - other) > 1e-7, axis=-1))


def test_features_and_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="features is 16 and size is 3, for images of 3 channels"):
        pixelcnn.build((4, 4, 3), features=16, size=3)
    with pytest.raises(ValueError, match="size is 4"):
        pixelcnn.build((4, 4, 3), features=6, size=4)


# ---- Loss and metrics -------------------------------------------------------------------------


def test_bits_and_nats_of_a_model_that_knows_nothing():
    model = model_of((4, 4, 3))
    model.layers[-2].set_weights([np.zeros_like(v) for v in model.layers[-2].get_weights()])
    model.compile("sgd", **pixelcnn.compile_arguments())
    images = RNG.uniform(size=[5, 4, 4, 3]).astype(np.float32)
    x, y = pixelcnn.prepare(images, np.zeros(5))
    logs = model.evaluate(x, y, batch_size=2, verbose=0, return_dict=True)
    wanted = {"loss": math.log(256), "nats_per_dim": math.log(256), "bits_per_dim": 8.0}
    assert logs == pytest.approx(wanted, rel=1e-5)


def test_values_are_the_levels_of_a_picture():
    image = np.arange(256).reshape(16, 16, 1).astype(np.float32) / 255.0
    x, values = pixelcnn.prepare(image, 7)
    np.testing.assert_array_equal(values, np.arange(256).reshape(16, 16, 1))
    np.testing.assert_array_equal(x, image)
    x, _ = pixelcnn.prepare(image, 7, conditional=True)
    assert x["label"] == 7


# ---- Samples ----------------------------------------------------------------------------------


def test_samples_follow_the_logits_and_the_seed():
    model = model_of((3, 2, 3), classes=2)
    labels = np.array([0, 1, 1])
    one, same, other = (pixelcnn.sample(model, 3, seed, labels) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one * 255, np.rint(one * 255), atol=1e-4)
    kernel, bias = model.layers[-2].get_weights()
    certain = np.zeros([3, 256])
    certain[[0, 1, 2], [10, 255, 0]] = 100.0
    model.layers[-2].set_weights([kernel, certain.reshape(bias.shape)])
    sure = pixelcnn.sample(model, 3, 1, labels)
    np.testing.assert_allclose(sure, np.broadcast_to([10 / 255, 1.0, 0.0], sure.shape), atol=1e-6)


def test_a_value_is_drawn_knowing_those_before_it():
    model = model_of((2, 3, 1))
    drawn = pixelcnn.sample(model, 2, seed=5)
    logits = model(drawn).numpy()
    for place in np.ndindex(2, 3, 1):
        number = place[0] * 3 + place[1]
        at = logits[(slice(None), *place)]
        wanted = tf.random.stateless_categorical(at, 1, [5, number])[:, 0]
        np.testing.assert_array_equal(np.rint(drawn[(slice(None), *place)] * 255), wanted)


def test_a_picture_has_all_images(tmp_path: Any):
    images = RNG.uniform(size=[3, 4, 5, 3]).astype(np.float32)
    path = str(tmp_path / "picture.png")
    picture.write(path, images)
    sheet = tf.io.decode_png(tf.io.read_file(path)).numpy()
    assert sheet.shape == (9, 11, 3)
    np.testing.assert_array_equal(sheet[:4, :5], np.rint(images[0] * 255))
    np.testing.assert_array_equal(sheet[:4, 6:], np.rint(images[1] * 255))
    np.testing.assert_array_equal(sheet[5:, :5], np.rint(images[2] * 255))
    assert not sheet[4].any() and not sheet[5:, 5:].any()
    with pytest.raises(ValueError, match=r"shape \(3, 4, 5\)"):
        picture.write(path, images[..., 0])
