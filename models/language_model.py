"""Language models: an LSTM over characters, or over words with sampled softmax.

Reproduces, in small, section 4.4 of Chen et al. (only in the workshop version, arXiv 1604.00981v1),
which trains a character model that predicts words of One Billion Word. What the paper does not say
is taken from Jozefowicz et al., Exploring the Limits of Language Modeling (arXiv 1602.02410): the
LSTM with projection, dropout on the embeddings and on every LSTM's output, and sampled softmax.
The recipes have their sizes. Here every window of text begins with a state of zeros; they carry the
state over from the window before.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from models.projected_lstm import ProjectedLSTMCell
from models.sampled_softmax import SampledSoftmax

Tensor = Any


def build(vocabulary: int, of_words: bool = False, **sizes: Any) -> keras.Model:
    """Returns an uncompiled model with all its variables.

    Args:
      vocabulary: number of tokens; with sampled softmax in the order of decreasing frequency.
      of_words: whether tokens are words, or characters.
      **sizes: arguments of `LanguageModel`.

    Returns:
      A model from [batch, steps] int32 tokens to what follows each: [batch, steps, vocabulary]
      float32 logits. Its loss and metrics are its own.
    """
    model = LanguageModel(vocabulary, of_words, **sizes)
    model.build((None, None))
    return model


def compile_arguments() -> dict[str, Any]:
    """Returns what `compile` wants next to the optimizer: nothing, the model has its own."""
    return {}


def prepare(window: Tensor) -> tuple[Tensor, Tensor]:
    """Returns an example, inputs and targets of [steps], of a window of [steps + 1] tokens."""
    return window[:-1], window[1:]


@keras.saving.register_keras_serializable(package="tf_backup_models")
class LanguageModel(keras.Model):
    """An embedding, LSTMs and a softmax, with its loss and metrics.

    The loss is in nats per token. While training with sampled softmax it is an estimate, and
    `call` returns what the softmax gets instead of logits; evaluation always uses the full softmax
    (of a full-size model, whose logits are 3.2 MB for each token, evaluate on small batches).

    Args:
      vocabulary: number of tokens.
      of_words: whether a token is a word, or a character.
      embedding: size of a token's embedding.
      units: cells of an LSTM.
      projection: size to which each LSTM's output is projected; None for no projection.
      depth: number of LSTMs.
      samples: candidates of sampled softmax; None for the full softmax.
      keep: probability with which dropout keeps a value.
      characters_per_word: in the text, white space included; turns nats per character into nats
        per word and back. 5.6 is common for English.
      seed: of dropout and candidates.
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
        own = {name: value for name, value in locals().items() if name not in _NOT_ARGUMENTS}
        self._arguments = own
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
        """Creates all variables."""
        self.embedding.build(input_shape)
        shape = self.embedding.compute_output_shape(input_shape)
        for lstm in self.lstms:
            lstm.build(shape)
            shape = lstm.compute_output_shape(shape)
        self.softmax.build(shape)

    def call(self, tokens: Tensor, training: bool = False) -> Tensor:
        """Returns logits, or features when training with sampled softmax.

        Args:
          tokens: [batch, steps] integers.
          training: whether to drop out, and to leave the softmax to `compute_loss`.

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
        """Returns the mean of -log p of the targets `y` ([batch, steps] integers), in nats."""
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
        """Returns the arguments."""
        return {**super().get_config(), **self._arguments}


_NOT_ARGUMENTS = ("self", "kwargs", "__class__")


def _lstm(units: int, projection: int | None) -> Any:
    if projection is None:
        return keras.layers.LSTM(units, return_sequences=True)
    return keras.layers.RNN(ProjectedLSTMCell(units, projection), return_sequences=True)


@keras.saving.register_keras_serializable(package="tf_backup_models")
class Perplexity(keras.metrics.Mean):
    """The exponential of the mean of nats, which add up over batches.

    Args:
      tokens: how many tokens there are for each unit that it is the perplexity of.
    """

    def __init__(self, tokens: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokens = tokens

    def result(self) -> Tensor:
        """Returns it, [] float32; infinite if it is beyond float32."""
        return ops.exp(self.tokens * super().result())

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "tokens": self.tokens}


def generate(
    model: keras.Model,
    prompt: Any,
    count: int,
    temperature: float = 1.0,
    seed: int = 0,
    window: int = 128,
) -> np.ndarray[Any, Any]:
    """Returns tokens that the model draws, one after the other, behind a prompt.

    Args:
      model: a language model.
      prompt: [at least one] integers.
      count: tokens to draw.
      temperature: divides the logits; towards 0 the likeliest token is always drawn.
      seed: of the draws.
      window: tokens that the model looks back on.

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
