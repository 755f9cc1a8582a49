from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import inception_v3
from scripts.training import presets

pytestmark = pytest.mark.slow  # A model of 300 layers takes seconds to build.

RNG = np.random.default_rng(0)
SHAPE = (75, 75, 3)
NARROW = presets.find("inception_v3", "small").sizes


def of_kind(model: Any, kind: type) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, kind)]


def outputs(model: Any) -> dict[str, tuple[int | None, ...]]:
    return {name: output.shape for name, output in model.output.items()}


@pytest.fixture(scope="module")
def full() -> Any:
    return inception_v3.build((299, 299, 3), 1000)


# ---- It is Inception v3 -----------------------------------------------------------------------


def test_it_computes_what_keras_own_does():
    theirs = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=SHAPE, pooling="avg"
    )
    ours = inception_v3.build(SHAPE, 7, auxiliary=False)
    values = [
        RNG.uniform(0.5, 1.5, v.shape) * (v if v.any() else 0.1) for v in theirs.get_weights()
    ]
    theirs.set_weights(values)
    head = [np.eye(2048, 7, dtype=np.float32), np.zeros(7, np.float32)]
    assert theirs.count_params() + 2048 * 7 + 7 == ours.count_params()
    ours.set_weights([*values, *head])
    images = RNG.uniform(size=[2, *SHAPE]).astype(np.float32)
    features = theirs(2.0 * images - 1.0).numpy()
    assert features.std() > 0
    np.testing.assert_allclose(ours(images)["logits"], features[:, :7], rtol=1e-4, atol=1e-6)


def test_grids_and_outputs(full: Any):
    shapes = [layer.output.shape[1:] for layer in of_kind(full, keras.layers.Concatenate)]
    for grid in [(35, 35, 288), (17, 17, 768), (8, 8, 1280), (8, 8, 2048)]:
        assert grid in shapes
    assert outputs(full) == {"logits": (None, 1000), "auxiliary": (None, 1000)}
    trunk = 23_851_784  # Parameters of keras.applications.InceptionV3.
    auxiliary = 768 * 128 + 3 * 128 + 5 * 5 * 128 * 768 + 3 * 768 + 768 * 1000 + 1000
    assert full.count_params() == trunk + auxiliary


def test_settings_of_googles_code(full: Any):
    for norm in of_kind(full, keras.layers.BatchNormalization):
        assert (norm.momentum, norm.epsilon, norm.scale) == (0.9997, 0.001, False)
    (dropout,) = of_kind(full, keras.layers.Dropout)
    assert dropout.rate == pytest.approx(0.2)


def test_weight_decay_is_half_the_sum_of_squares_of_all_kernels():
    model = inception_v3.build((32, 32, 3), 10, **NARROW, weight_decay=0.5)
    kernels = [w.numpy() for w in model.trainable_weights if w.name == "kernel"]
    assert len(kernels) == len(model.losses) == len(of_kind(model, keras.layers.Conv2D)) + 2
    wanted = 0.5 * 0.5 * sum(np.sum(np.square(kernel)) for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(wanted, rel=1e-4)


# ---- The loss ---------------------------------------------------------------------------------


def test_smoothed_cross_entropy_is_keras_own_of_labels_in_one_hot():
    labels, logits = np.array([1, 0, 3]), RNG.normal(size=[3, 4]).astype(np.float32)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    wanted = float(theirs(np.eye(4)[labels], logits))
    for shaped in (labels, labels[:, np.newaxis]):
        assert float(inception_v3.SmoothedCrossEntropy(0.1)(shaped, logits)) == pytest.approx(
            wanted
        )


def test_auxiliary_loss_counts_two_fifths():
    model = inception_v3.build((32, 32, 3), 10, **NARROW, weight_decay=0.0)
    model.compile("sgd", **inception_v3.compile_arguments())
    images = RNG.uniform(size=[4, 32, 32, 3]).astype(np.float32)
    x, y = inception_v3.prepare(images, np.arange(4))
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert {"loss", "logits_loss", "auxiliary_loss", "logits_accuracy"} == logs.keys()
    assert logs["loss"] == pytest.approx(logs["logits_loss"] + 0.4 * logs["auxiliary_loss"])


# ---- Narrow ones ------------------------------------------------------------------------------


def test_narrow_ones():
    for shape, settings in (
        ((32, 32, 3), NARROW),
        ((75, 75, 3), {**NARROW, "small_images": False}),
    ):
        model = inception_v3.build(shape, 10, **settings)
        assert model.count_params() < 1e6
        assert outputs(model) == {"logits": (None, 10), "auxiliary": (None, 10)}


@pytest.mark.parametrize(("size", "small"), [(75, False), (13, True)])
def test_images_that_are_too_small_are_refused(size: int, small: bool):
    settings = {"width": 0.1, "modules": (0, 0, 0), "small_images": small}
    inception_v3.build((size, size, 3), 2, **settings)
    message = f"images are {size} x {size - 1}, but this Inception v3 needs {size} x {size} or more"
    with pytest.raises(ValueError, match=message):
        inception_v3.build((size, size - 1, 3), 2, **settings)


def test_too_many_modules_are_refused():
    with pytest.raises(ValueError, match=r"modules is \(1, 5, 1\), but .* 3, 4 and 2"):
        inception_v3.build((75, 75, 3), 2, modules=(1, 5, 1))


# ---- What it is given -------------------------------------------------------------------------


def mirrored_batches(seed: int, count: int) -> list[tuple[Any, Any]]:
    """Return augmented batches of the same numbered images, with their labels."""
    numbers = np.arange(64, dtype=np.float32)
    images = (
        np.arange(4.0, dtype=np.float32)[None, None, :, None] + 10 * numbers[:, None, None, None]
    )
    labels = {"logits": numbers.astype(np.int64), "auxiliary": numbers.astype(np.int64)}
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    return list(inception_v3.augmented(batches, seed).take(count).as_numpy_iterator())


def test_half_of_the_images_are_mirrored_and_keep_their_labels():
    for images, labels in mirrored_batches(seed=3, count=4):
        plain = images[:, 0, 0, 0] == 10 * np.arange(64)
        expected = np.where(plain[:, None], np.arange(4), np.arange(3, -1, -1))
        np.testing.assert_array_equal(
            images[:, 0, :, 0], expected + 10 * np.arange(64, dtype=np.float32)[:, None]
        )
        assert 16 < plain.sum() < 48
        for each in labels.values():
            np.testing.assert_array_equal(each, np.arange(64))


def test_every_batch_and_seed_is_mirrored_in_its_own_way_always():
    first, second = (images for images, _ in mirrored_batches(seed=3, count=2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(mirrored_batches(seed=3, count=2)[1][0], second)
    assert not np.array_equal(mirrored_batches(seed=4, count=1)[0][0], first)
