"""Contract of all models: plain Keras and the workers use them alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import draw, inception_v3, language_model, mnist_cnn, pixelcnn, small_cnn
from tests.extra import with_extra
from tf_backup.keras.model_objective import keras_objective

pytestmark = pytest.mark.slow  # Computes for seconds.

RNG = np.random.default_rng(3)
LABELS = np.arange(8) % 2
# One class is bright above, the other below, so that there is something to learn.
BRIGHT = np.where(np.arange(16)[:, np.newaxis] < 8, 0.9, 0.1) * np.ones([16, 16])
IMAGES = np.stack([BRIGHT if label else 1 - BRIGHT for label in LABELS])[..., np.newaxis]
IMAGES = (IMAGES + RNG.uniform(-0.1, 0.1, IMAGES.shape)).astype(np.float32)
COLOURS = np.repeat(IMAGES, 3, axis=-1)
TOKENS = np.stack([(np.arange(7) + start) % 5 for start in range(8)]).astype(np.int32)
WORDS = {"embedding": 6, "units": 8, "projection": 5, "samples": 16, "keep": 0.9, "depth": 2}


@dataclasses.dataclass(frozen=True)
class Task:
    module: Any
    build: Callable[[], Any]
    elements: Any  # Elements of a data set, for `prepare`.
    draws: bool = False  # Whether evaluation draws random numbers.


TASKS = {
    "small_cnn": Task(small_cnn, lambda: small_cnn.build((16, 16, 1), 2), (IMAGES, LABELS)),
    "mnist_cnn": Task(
        mnist_cnn, lambda: mnist_cnn.build((16, 16, 1), 2, (4, 4, 4, 6)), (IMAGES, LABELS)
    ),
    "inception_v3": Task(
        inception_v3,
        lambda: inception_v3.build(
            (16, 16, 3),
            2,
            width=0.05,
            modules=(1, 0, 0),
            small_images=True,
            batch_norm_decay=0.99,
            seed=1,
        ),
        (COLOURS, LABELS),
    ),
    "pixelcnn": Task(
        pixelcnn,
        lambda: pixelcnn.build((8, 8, 3), features=12, depth=2, size=3),
        (COLOURS[:, 4:12, :8], LABELS),
    ),
    "language_model of characters": Task(
        language_model, lambda: language_model.build(5, embedding=6, units=8), (TOKENS,)
    ),
    "language_model of words": Task(
        language_model, lambda: language_model.build(5, of_words=True, seed=1, **WORDS), (TOKENS,)
    ),
    "draw": Task(
        draw,
        lambda: draw.build((16, 16, 1), glimpses=3, units=16, latent=4, read=3, write=3, seed=1),
        (IMAGES, LABELS),
        draws=True,
    ),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
# Inception, whose layers are Keras' own, takes as long as all others: it is extra.
most_tasks = pytest.mark.parametrize(
    "task", with_extra(TASKS.values(), TASKS["inception_v3"]), ids=TASKS.keys()
)


def examples(task: Task) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(task.elements).map(task.module.prepare)


def compiled(task: Task, optimizer: Any = None) -> Any:
    keras.utils.set_random_seed(2)
    model = task.build()
    optimizer = optimizer or keras.optimizers.Adam(0.02)
    model.compile(optimizer, **task.module.compile_arguments())
    return model


@every_task
def test_it_is_used_in_the_same_way(task: Task):
    assert {"build", "compile_arguments", "prepare"} <= vars(task.module).keys()
    model = task.build()
    assert not model.compiled
    assert model.built and model.weights
    assert all(weight.dtype in ("float32", "uint32", "int64") for weight in model.weights)


@every_task
def test_a_worker_can_compute_it(task: Task):
    """It uses only tensors: no variable is captured, and every parameter has a gradient."""
    model = compiled(task)
    batch = next(iter(examples(task).batch(8)))
    model._symbolic_build(data_batch=batch)
    spec = tf.nest.map_structure(
        lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), batch
    )
    objective = keras_objective(model, spec)
    values = [tf.convert_to_tensor(v) for v in objective.read]
    results = objective.compute(values, tf.constant([1, 0], tf.int64), batch)
    assert all(gradient is not None for gradient in results.gradients)
    assert any(np.any(gradient) for gradient in results.gradients)
    assert all(np.any(total) for total in results.sums[:2])


@most_tasks
def test_what_is_saved_is_what_is_loaded(task: Task, tmp_path: Any):
    model = task.build()
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    if not task.draws:
        inputs = next(iter(examples(task).batch(8)))[0]
        for one, other in zip(
            keras.tree.flatten(model(inputs)), keras.tree.flatten(loaded(inputs)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@most_tasks
def test_metrics_add_up_over_batches(task: Task):
    if task.draws:
        pytest.skip("draws other numbers in other batches")
    model = compiled(task)
    whole = model.evaluate(examples(task).batch(8), verbose=0, return_dict=True)
    parts = model.evaluate(examples(task).batch(2), verbose=0, return_dict=True)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-4), name
