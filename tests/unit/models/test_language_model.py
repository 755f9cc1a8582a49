from __future__ import annotations

import inspect
import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import language_model
from models.projected_lstm import ProjectedLSTMCell
from models.sampled_softmax import SampledSoftmax

RNG = np.random.default_rng(0)
WORDS = {"embedding": 6, "units": 8, "projection": 5, "samples": 4, "keep": 1.0}


def softmax_of(classes: int, samples: int) -> tuple[SampledSoftmax, np.ndarray, np.ndarray]:
    layer = SampledSoftmax(classes, samples, seed=1)
    layer.build((None, 3))
    layer.table.embeddings.assign(RNG.normal(size=[classes, 3]))
    layer.biases.embeddings.assign(RNG.normal(size=[classes, 1]))
    features = RNG.normal(size=[2, 4, 3]).astype(np.float32)
    return layer, features, RNG.integers(0, classes, size=[2, 4])


# ---- Sampled softmax --------------------------------------------------------------------------


def test_candidates_are_log_uniform():
    layer = SampledSoftmax(20, 100_000, seed=1)
    drawn = np.bincount(layer.candidates(), minlength=20)
    wanted = layer.expected_counts(np.arange(20)).numpy()
    assert wanted.sum() == pytest.approx(100_000, rel=1e-4)
    assert wanted[0] == pytest.approx(100_000 * math.log(2) / math.log(21), rel=1e-4)
    np.testing.assert_allclose(drawn, wanted, atol=5 * np.sqrt(wanted.max()))
    assert len(drawn) == 20


def test_candidates_of_a_vocabulary_in_full_are_in_it():
    layer = SampledSoftmax(793_470, 200_000, seed=1)
    drawn = layer.candidates().numpy()
    assert drawn.min() == 0 and 500_000 < drawn.max() < 793_470


def test_every_draw_is_another():
    layer = SampledSoftmax(1000, 50, seed=1)
    assert not np.array_equal(layer.candidates(), layer.candidates())


def test_with_many_samples_the_loss_and_its_gradient_are_the_full_ones():
    layer, features, targets = softmax_of(12, 200_000)
    parameters = [layer.table.embeddings, layer.biases.embeddings]

    def of(loss: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, [p.value for p in parameters])
        return value, [tf.convert_to_tensor(gradient) for gradient in gradients]

    full, full_gradients = of(
        lambda: keras.ops.sparse_categorical_crossentropy(
            targets, layer.logits(features), from_logits=True
        )
    )
    sampled, sampled_gradients = of(lambda: layer(features, targets))
    assert sampled.shape == (2, 4)
    np.testing.assert_allclose(sampled, full, rtol=0.02, atol=0.02)
    for one, other in zip(sampled_gradients, full_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=0.03)


def test_a_candidate_that_is_the_target_does_not_count():
    layer, features, _ = softmax_of(1, 50)  # All candidates are the target.
    losses = layer(features, np.zeros([2, 4], np.int32))
    np.testing.assert_allclose(losses, 0.0, atol=1e-6)


def test_training_looks_rows_up_and_never_reads_a_table():
    model = language_model.build(50, of_words=True, **WORDS)
    x, y = RNG.integers(0, 50, size=[2, 2, 3])
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), training=True)
    tables = [model.embedding, model.softmax.table, model.softmax.biases]
    for gradient in tape.gradient(loss, [table.embeddings.value for table in tables]):
        assert isinstance(gradient, tf.IndexedSlices)


# ---- The model --------------------------------------------------------------------------------


def test_evaluation_is_with_the_full_softmax():
    model = language_model.build(50, of_words=True, **WORDS)
    model.compile("sgd", **language_model.compile_arguments())
    x, y = RNG.integers(0, 50, size=[2, 4, 3])
    logits = model(x, training=False)
    assert logits.shape == (4, 3, 50)
    assert model(x, training=True).shape == (4, 3, 5)
    nats = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(float(nats), rel=1e-5)


@pytest.mark.parametrize("of_words", [False, True])
def test_perplexities(of_words: bool):
    sizes = WORDS if of_words else {"embedding": 4, "units": 4}
    model = language_model.build(9, of_words, characters_per_word=4.0, **sizes)
    model.compile("sgd", **language_model.compile_arguments())
    x, y = RNG.integers(0, 9, size=[2, 5, 3])
    logs = model.evaluate(x, y, batch_size=2, verbose=0, return_dict=True)
    nats = math.log(logs["word_perplexity" if of_words else "character_perplexity"])
    wanted = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x))
    assert nats == pytest.approx(float(wanted), rel=1e-5)
    per_character = nats / 4.0 if of_words else nats
    assert logs["character_perplexity"] == pytest.approx(math.exp(per_character), rel=1e-4)
    assert logs["word_perplexity"] == pytest.approx(math.exp(4.0 * per_character), rel=1e-4)


def test_perplexity_adds_up():
    metric = language_model.Perplexity()
    metric.update_state(np.array([1.0, 2.0]))
    metric.update_state(np.array([6.0]))
    assert float(metric.result()) == pytest.approx(math.exp(3.0))
    assert [tuple(v.shape) for v in metric.variables] == [(), ()]  # A total and a count.


def test_later_tokens_are_not_seen():
    model = language_model.build(9, embedding=4, units=6)
    x = RNG.integers(0, 9, size=[1, 6])
    other = x.copy()
    other[0, 3] = (x[0, 3] + 1) % 9
    same = np.all(np.isclose(model(x), model(other), atol=1e-7), axis=-1)[0]
    assert same.tolist() == [True, True, True, False, False, False]


def test_weights_of_tokens_are_refused():
    model = language_model.build(9, embedding=4, units=6)
    with pytest.raises(ValueError, match="every token counts once"):
        model.compute_loss(None, None, None, np.ones(3))


def test_full_sizes_are_those_of_the_reference():
    cell = ProjectedLSTMCell(2048, 512)
    cell.build((None, 512))
    assert cell.count_params() == (512 + 512) * 4 * 2048 + 4 * 2048 + 2048 * 512


def test_projected_lstm_without_projection_is_an_lstm():
    """With the identity as its projection, and without the 1 in Keras' bias of the forget gate."""
    x = RNG.normal(size=[2, 5, 3]).astype(np.float32)
    theirs = keras.layers.LSTM(4, return_sequences=True, unit_forget_bias=True)
    ours = keras.layers.RNN(ProjectedLSTMCell(4, 4), return_sequences=True)
    wanted = theirs(x)
    ours.build(x.shape)
    kernel, recurrent, bias = theirs.get_weights()
    bias = bias - np.repeat([0.0, 1.0, 0.0, 0.0], 4)
    ours.set_weights([np.concatenate([kernel, recurrent]), bias, np.eye(4)])
    np.testing.assert_allclose(ours(x), wanted, rtol=1e-4, atol=1e-5)


# ---- Text -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_a_text_and_writes_it():
    keras.utils.set_random_seed(1)
    model = language_model.build(4, embedding=8, units=16)
    model.compile(keras.optimizers.Adam(0.05), **language_model.compile_arguments())
    text = np.tile([0, 1, 2, 3, 3], 20)
    windows = np.stack([text[start : start + 9] for start in range(64)])
    x, y = windows[:, :-1], windows[:, 1:]
    losses = model.fit(x, y, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    written = language_model.generate(model, text[:6], 9, temperature=0.01, window=8)
    np.testing.assert_array_equal(written, text[6:15])
    drawn = [language_model.generate(model, [0], 20, 2.0, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_prepare_shifts_by_one():
    x, y = language_model.prepare(np.array([3, 1, 2]))
    assert (x.tolist(), y.tolist()) == ([3, 1], [1, 2])


def test_its_configuration_has_every_argument():
    sizes = {"embedding": 6, "units": 8, "projection": 5, "depth": 2, "samples": 4, "keep": 0.9}
    others = {"characters_per_word": 6.0, "seed": 3}
    model = language_model.LanguageModel(11, True, **sizes, **others)
    config = model.get_config()
    arguments = inspect.signature(language_model.LanguageModel.__init__).parameters.keys()
    assert arguments - {"self", "kwargs"} <= config.keys()
    assert config.items() >= {"vocabulary": 11, "of_words": True, **sizes, **others}.items()
    assert language_model.LanguageModel.from_config(config).get_config() == config
