from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import mnist_cnn

SEED = [4, 2]


def test_four_layers_of_3_by_3_with_weight_norm_and_pooling():
    kinds = [type(layer).__name__ for layer in mnist_cnn.build().layers]
    assert kinds == [
        "InputLayer",
        *(["WeightNormConv2D", "ReLU", "MaxPooling2D"] * 4),
        "Flatten",
        "Dense",
    ]


def test_shapes():
    model = mnist_cnn.build((28, 28, 1), 10)
    assert model.output_shape == (None, 10)
    steps = zip((1, 32, 64, 64), (32, 64, 64, 128), strict=True)
    convolutions = sum(9 * before * after + 2 * after for before, after in steps)
    assert model.count_params() == convolutions + 128 * 10 + 10


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="15 x 28, but 4 layers that halve them need 16 x 16"):
        mnist_cnn.build((15, 28, 1))


# ---- Weight normalisation ---------------------------------------------------------------------


def layer_and_images() -> tuple[mnist_cnn.WeightNormConv2D, np.ndarray]:
    layer = mnist_cnn.WeightNormConv2D(5)
    images = np.random.default_rng(0).normal(size=[2, 6, 6, 3]).astype(np.float32)
    layer(images)
    layer.scale.assign([1.0, 2.0, -3.0, 0.5, 0.0])
    layer.bias.assign([0.0, 1.0, 2.0, 3.0, 4.0])
    return layer, images


def test_norm_of_a_filter_is_its_scale():
    layer, _ = layer_and_images()
    norms = np.sqrt(np.sum(np.square(layer.filter()), axis=(0, 1, 2)))
    np.testing.assert_allclose(norms, np.abs(layer.scale), rtol=1e-5)


def test_length_of_a_direction_does_not_matter():
    layer, images = layer_and_images()
    before = layer(images)
    layer.direction.assign(layer.direction * 7.0)
    np.testing.assert_allclose(layer(images), before, rtol=1e-4, atol=1e-5)


def test_it_is_the_convolution_with_its_filters():
    layer, images = layer_and_images()
    plain = keras.layers.Conv2D(5, 3, padding="same")
    plain.build(images.shape)
    direction = layer.direction.numpy()
    length = np.sqrt((direction**2).sum(axis=(0, 1, 2)))
    plain.set_weights([layer.scale.numpy() * direction / length, layer.bias.numpy()])
    np.testing.assert_allclose(layer(images), plain(images), rtol=1e-4, atol=1e-5)


def test_size_of_values_lasts_through_a_new_layer():
    images = np.random.default_rng(0).normal(size=[8, 16, 16, 64]).astype(np.float32)
    after = np.maximum(mnist_cnn.WeightNormConv2D(64)(images), 0)
    assert np.mean(np.square(after)) == pytest.approx(np.mean(np.square(images)), rel=0.25)


# ---- Augmentation -----------------------------------------------------------------------------


def dots(row: int, column: int, count: int = 40) -> np.ndarray:
    images = np.zeros([count, 29, 29, 1], np.float32)
    images[:, row - 1 : row + 2, column - 1 : column + 2] = 1.0
    return images


def middles(images: tf.Tensor) -> np.ndarray:
    """Return each image's center of brightness, relative to the image's middle, [count, 2]."""
    images = images.numpy()[..., 0]
    axis = np.arange(29) - 14.0
    total = images.sum(axis=(1, 2))
    rows, columns = images.sum(axis=2) @ axis / total, images.sum(axis=1) @ axis / total
    return np.stack([rows, columns], axis=1)


def test_nothing_to_change_changes_nothing():
    images = np.random.default_rng(0).uniform(size=[4, 28, 28, 1]).astype(np.float32)
    np.testing.assert_allclose(mnist_cnn.augment(images, SEED, 0.0, 0.0), images, atol=1e-5)


def test_the_middle_stays():
    moved = middles(mnist_cnn.augment(dots(14, 14), SEED, 30.0, 0.3))
    np.testing.assert_allclose(moved, 0.0, atol=1e-3)


def test_rotation_keeps_the_distance_and_goes_to_both_sides():
    moved = middles(mnist_cnn.augment(dots(14, 22), SEED, degrees=20.0, zoom=0.0))
    np.testing.assert_allclose(np.hypot(*moved.T), 8.0, atol=0.1)
    angles = np.degrees(np.arctan2(moved[:, 0], moved[:, 1]))
    assert angles.min() < -10 and angles.max() > 10
    assert np.abs(angles).max() < 21


def test_zoom_keeps_the_angle_and_makes_larger_and_smaller():
    moved = middles(mnist_cnn.augment(dots(14, 22), SEED, degrees=0.0, zoom=0.2))
    np.testing.assert_allclose(moved[:, 0], 0.0, atol=1e-3)
    assert 6.3 < moved[:, 1].min() < 7.2 and 8.8 < moved[:, 1].max() < 9.7


def test_same_seed_same_change():
    one, same, other = (mnist_cnn.augment(dots(5, 22), seed) for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_a_data_set_changes_otherwise_in_every_pass_and_the_same_in_every_run():
    images = dots(5, 22, count=6)
    batches = tf.data.Dataset.from_tensor_slices((images, np.arange(6))).batch(6).repeat(2)
    runs = [list(mnist_cnn.augmented(batches, seed=3)) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], np.arange(6))
    first, second = (batch[0] for batch in runs[0])
    assert not np.allclose(first, second)
    assert not np.allclose(first, next(iter(mnist_cnn.augmented(batches, seed=4)))[0])


def test_it_needs_nothing_of_the_process_it_runs_in():
    function = tf.function(mnist_cnn.augment).get_concrete_function(
        tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([2], tf.int64)
    )
    kinds = {op.type for op in function.graph.get_operations()}
    assert "ImageProjectiveTransformV3" in kinds
    assert not [kind for kind in kinds if "PyFunc" in kind or "Table" in kind]
    assert not function.captured_inputs
