from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

from models import draw
from models.attention import Attention

pytestmark = pytest.mark.slow  # Computes for seconds.

RNG = np.random.default_rng(0)
SIZES = {"glimpses": 4, "units": 12, "latent": 3, "seed": 1}
IMAGES = (RNG.uniform(size=[6, 9, 8, 1]) > 0.5).astype(np.float32)


def model_of(**sizes: Any) -> Any:
    keras.utils.set_random_seed(1)
    return draw.build((9, 8, 1), **{**SIZES, "read": 3, "write": 4, **sizes})


def looking(size: int, image_size: tuple[int, int], where: list[float]) -> Any:
    """Return the window of an attention that always looks at the same place."""
    attention = Attention(image_size, size)
    attention.build((None, 2))
    attention.where.set_weights([np.zeros([2, 5]), np.array(where)])
    return attention(np.zeros([1, 2], np.float32))


# ---- Attention --------------------------------------------------------------------------------


def test_a_sharp_grid_as_large_as_the_image_is_the_image():
    images = RNG.uniform(size=[1, 5, 5]).astype(np.float32)
    window = looking(5, (5, 5), [0.0, 0.0, -5.0, 0.0, math.log(3.0)])
    np.testing.assert_allclose(window.read(images), 3.0 * images, rtol=1e-4)
    np.testing.assert_allclose(window.write(images), images / 3.0, rtol=1e-4)


def test_a_grid_is_where_it_is_told_to_be():
    image = np.arange(7 * 11, dtype=np.float32).reshape(1, 7, 11)
    # The middle is at column 5 (x + 1) = 2 and row 3 (y + 1) = 4; the stride is 10 / 2 * 0.2 = 1.
    window = looking(3, (7, 11), [-0.6, 1 / 3, -5.0, math.log(0.2), 0.0])
    np.testing.assert_allclose(window.read(image)[0], image[0, 3:6, 1:4], rtol=1e-3)


def test_filters_sum_to_one_also_outside_of_the_image():
    window = looking(4, (6, 9), [50.0, -50.0, 0.0, 1.0, 0.0])
    for filters in (window.rows, window.columns):
        np.testing.assert_allclose(np.sum(filters, axis=-1), 1.0, rtol=1e-5)


def test_variance_widens():
    window = looking(2, (21, 21), [0.0, 0.0, math.log(4.0), math.log(0.05), 0.0])
    axis = np.arange(21)
    first = window.rows[0, 0].numpy()
    assert axis @ first == pytest.approx(10 - 0.5, abs=0.01)
    assert np.square(axis - axis @ first) @ first == pytest.approx(4.0, rel=0.02)


def test_a_grid_of_one_is_refused():
    with pytest.raises(ValueError, match="size is 1, but a grid has a stride"):
        Attention((4, 4), 1)


# ---- The model --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, {"read": None}, {"write": None, "read": None}])
def test_outputs(sizes: dict[str, Any]):
    outputs = model_of(**sizes)(IMAGES)
    assert outputs["canvas"].shape == (6, 9, 8, 1)
    assert outputs["kl"].shape == (6,)
    assert np.all(outputs["kl"].numpy() > 0)


def test_loss_is_cross_entropy_and_kl():
    model = model_of()
    logits = RNG.normal(size=IMAGES.shape).astype(np.float32)
    kl = np.arange(6, dtype=np.float32)
    loss = model.compute_loss(IMAGES, None, {"canvas": logits, "kl": kl})
    p = 1.0 / (1.0 + np.exp(-logits))
    each = -np.log(np.where(IMAGES > 0.5, p, 1.0 - p)).sum(axis=(1, 2, 3))
    assert float(loss) == pytest.approx(np.mean(each + kl), rel=1e-5)
    assert float(model.bound.result()) == pytest.approx(np.mean(each + kl), rel=1e-5)
    assert float(model.kl.result()) == pytest.approx(2.5)


def test_kl_is_that_of_normal_distributions():
    model = model_of()
    mean, log_sd = np.array([0.5, -1.0, 2.0]), np.array([0.1, -0.3, 0.0])
    model.posterior.set_weights([np.zeros([12, 6]), np.concatenate([mean, log_sd])])
    each = 0.5 * (mean**2 + np.exp(2 * log_sd) - 1) - log_sd
    np.testing.assert_allclose(model(IMAGES)["kl"], 4 * each.sum(), rtol=1e-4)


def test_it_is_the_references_loop():
    """Without attention, equations 3 to 8, 11 and 12 written out."""
    model = model_of(read=None, write=None)
    model.posterior.bias.assign([0.3, -0.2, 0.1, 0.9, -0.7, 0.5])
    start = model.seed_generator.state.numpy()
    noise = model.noise(6).numpy()
    model.seed_generator.state.assign(start)
    outputs = model(IMAGES)
    images = IMAGES.reshape(6, -1)
    canvas, zeros = np.zeros_like(images), np.zeros([6, 12], np.float32)
    encoder, decoder = [zeros, zeros], [zeros, zeros]
    for glimpse in range(4):
        error = images - 1.0 / (1.0 + np.exp(-canvas))
        seen = np.concatenate([images, error, decoder[0]], axis=1)
        _, encoder = model.encoder(seen, encoder)
        mean, log_sd = np.split(model.posterior(encoder[0]).numpy(), 2, axis=1)
        latent = mean + np.exp(log_sd) * noise[glimpse]
        _, decoder = model.decoder(latent, decoder)
        canvas = canvas + model.stroke(decoder[0]).numpy()
    painted = outputs["canvas"].numpy().reshape(6, -1)
    np.testing.assert_allclose(painted, canvas, rtol=1e-4, atol=1e-5)


def test_strokes_add_up_also_with_attention():
    model = model_of()
    model.decoder.set_weights([np.zeros_like(v) for v in model.decoder.get_weights()])
    model.stroke.bias.assign(np.ones(16))
    one = model_of(glimpses=1)
    one.set_weights(model.get_weights())
    np.testing.assert_allclose(model(IMAGES)["canvas"], 4 * one(IMAGES)["canvas"], rtol=1e-4)


def test_a_posterior_that_is_the_prior_paints_what_the_prior_paints():
    model = model_of()
    model.posterior.set_weights([np.zeros([12, 6]), np.zeros(6)])
    state = model.seed_generator.state.numpy()
    canvas = model(IMAGES)["canvas"]
    model.seed_generator.state.assign(state)
    np.testing.assert_allclose(draw.sample(model, 6), keras.ops.sigmoid(canvas), rtol=1e-4)


def test_every_pass_draws_other_numbers():
    model = model_of()
    assert not np.allclose(model(IMAGES)["canvas"], model(IMAGES)["canvas"])


def test_samples_are_images():
    images = draw.sample(model_of(), 5)
    assert images.shape == (5, 9, 8, 1)
    assert images.min() >= 0 and images.max() <= 1
    assert not np.allclose(images[0], images[1])


def test_prepare_makes_black_and_white():
    (image,) = draw.prepare(np.array([0.2, 0.7, 1.0], np.float32), 3)
    assert image.numpy().tolist() == [0.0, 1.0, 1.0]


def test_colours_and_weights_are_refused():
    with pytest.raises(ValueError, match="images have 3 channels"):
        draw.build((8, 8, 3))
    with pytest.raises(ValueError, match="every image counts once"):
        model_of().compute_loss(IMAGES, sample_weight=np.ones(6))
