"""Language models: an LSTM over characters, or over words with sampled softmax.

Reproduces, on a small scale, section 4.4 of Chen et al. (only in the workshop version, arXiv
1604.00981v1), which trains a character model that predicts words of One Billion Word. Details that
the paper omits are from Jozefowicz et al., Exploring the Limits of Language Modeling (arXiv
1602.02410): the LSTM with projection, dropout on the embeddings and on every LSTM's output, and
sampled softmax. The recipes use their sizes. Here every window of text starts with a state of
zeros; they carry the state over from the previous window.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from models.projected_lstm import ProjectedLSTMCell
from models.sampled_softmax import SampledSoftmax
from models.tensor import Tensor


def build(vocabulary: int, of_words: bool = False, **sizes: Any) -> keras.Model:
    """Return an uncompiled model with all its variables.

    Args:
      vocabulary: number of tokens; for sampled softmax, ids are in order of decreasing frequency.
      of_words: whether tokens are words; otherwise characters.
      **sizes: arguments of `LanguageModel`.

    Returns:
      A model from [batch, steps] int32 tokens to the logits of the token that follows each,
      [batch, steps, vocabulary] float32. It has its own loss and metrics.
    """
    model = LanguageModel(vocabulary, of_words, **sizes)
    model.build((None, None))
    return model


def compile_arguments() -> dict[str, Any]:
    """Return arguments for `compile`: none, as the model has its own loss and metrics."""
    return {}


def prepare(window: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, [steps] each, from a window of [steps + 1] tokens."""
    return window[:-1], window[1:]


@keras.saving.register_keras_serializable(package="tf_backup_models")
class LanguageModel(keras.Model):
    """Language model of an embedding, LSTMs and a softmax, with its loss and metrics.

    The loss is in nats per token. In training with sampled softmax it is an estimate, and `call`
    returns the softmax's input instead of logits. Evaluation always uses the full softmax: evaluate
    a full-size model on small batches, as its logits take 3.2 MB per token.

    Args:
      vocabulary: number of tokens.
      of_words: whether tokens are words; otherwise characters.
      embedding: size of a token's embedding.
      units: number of cells in each LSTM.
      projection: size to which each LSTM's output is projected; None for no projection.
      depth: number of LSTMs.
      samples: number of candidates of sampled softmax; None for the full softmax.
      keep: probability with which dropout keeps a value.
      characters_per_word: average in the text, including white space; converts between nats per
        character and nats per word. 5.6 is common for English.
      seed: seed of dropout and candidates.
    """

    def __init__(
        self,
        vocabulary: int,
        of_words: bool,
        embedding: int = 64,
        units: int = 256,
        projection: int | None = None,
        depth: int = 1,
        samples: int | None = None,
        keep: float = 1.0,
        characters_per_word: float = 5.6,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._arguments = {
            "vocabulary": vocabulary,
            "of_words": of_words,
            "embedding": embedding,
            "units": units,
            "projection": projection,
            "depth": depth,
            "samples": samples,
            "keep": keep,
            "characters_per_word": characters_per_word,
            "seed": seed,
        }
        self.samples = samples
        self.embedding = keras.layers.Embedding(vocabulary, embedding)
        self.dropouts = [keras.layers.Dropout(1 - keep, seed=seed) for _ in range(depth + 1)]
        self.lstms = [_lstm(units, projection) for _ in range(depth)]
        if samples:
            self.softmax = SampledSoftmax(vocabulary, samples, seed)
        else:
            self.softmax = keras.layers.Dense(vocabulary)
        characters = 1.0 / characters_per_word if of_words else 1.0
        self.character_perplexity = Perplexity(characters, name="character_perplexity")
        words = characters * characters_per_word
        self.word_perplexity = Perplexity(words, name="word_perplexity")

    def build(self, input_shape: Any) -> None:
        """Create all variables."""
        self.embedding.build(input_shape)
        shape = self.embedding.compute_output_shape(input_shape)
        for lstm in self.lstms:
            lstm.build(shape)
            shape = lstm.compute_output_shape(shape)
        self.softmax.build(shape)

    def call(self, tokens: Tensor, training: bool = False) -> Tensor:
        """Return logits, or features when training with sampled softmax.

        Args:
          tokens: [batch, steps] integers.
          training: whether to apply dropout, and to leave a sampled softmax to `compute_loss`.

        Returns:
          [batch, steps, vocabulary] or [batch, steps, features] float32.
        """
        features = self.dropouts[0](self.embedding(tokens), training=training)
        for lstm, dropout in zip(self.lstms, self.dropouts[1:], strict=True):
            features = dropout(lstm(features), training=training)
        if not self.samples:
            return self.softmax(features)
        return features if training else self.softmax.logits(features)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the mean of -log p of the targets `y` ([batch, steps] integers), in nats."""
        del x
        if sample_weight is not None:
            raise ValueError("sample_weight is given, but every token counts once. Leave it out.")
        if self.samples and training:
            nats = self.softmax(y_pred, y)
        else:
            nats = ops.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        for metric in (self.character_perplexity, self.word_perplexity):
            metric.update_state(nats)
        return ops.mean(nats)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **self._arguments}


def _lstm(units: int, projection: int | None) -> Any:
    if projection is None:
        return keras.layers.LSTM(units, return_sequences=True)
    return keras.layers.RNN(ProjectedLSTMCell(units, projection), return_sequences=True)


@keras.saving.register_keras_serializable(package="tf_backup_models")
class Perplexity(keras.metrics.Mean):
    """Perplexity: the exponential of the mean nats over all batches.

    Args:
      tokens: number of tokens in each unit (a character or a word) that perplexity refers to.
    """

    def __init__(self, tokens: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokens = tokens

    def result(self) -> Tensor:
        """Return the perplexity, [] float32; infinite if it overflows float32."""
        return ops.exp(self.tokens * super().result())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "tokens": self.tokens}


def generate(
    model: keras.Model,
    prompt: Any,
    count: int,
    temperature: float = 1.0,
    seed: int = 0,
    window: int = 128,
) -> np.ndarray[Any, Any]:
    """Return tokens that the model draws, one at a time, to continue a prompt.

    Args:
      model: a language model.
      prompt: [at least one] integers.
      count: number of tokens to draw.
      temperature: divisor of the logits; near 0 the most likely token is always drawn.
      seed: seed of the draws.
      window: number of previous tokens that the model sees.

    Returns:
      [count] int32.
    """
    tokens = [int(token) for token in prompt]
    begin = len(tokens)
    predict = tf.function(lambda ids: model(ids, training=False)[0, -1])
    signature = tf.TensorSpec([1, None], tf.int32)
    predict = predict.get_concrete_function(signature)
    for index in range(count):
        logits = predict(tf.constant([tokens[-window:]], tf.int32))
        scaled = logits / max(temperature, 1e-6)
        drawn = tf.random.stateless_categorical(scaled[tf.newaxis], 1, [seed, index])
        tokens.append(int(drawn[0, 0]))
    return np.array(tokens[begin:], np.int32)
