"""Softmax over very many classes that looks up only a sample of them in training."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from models.tensor import Tensor


@keras.saving.register_keras_serializable(package="tf_backup_models")
class SampledSoftmax(keras.layers.Layer):
    """Cross-entropy of a linear layer and softmax, on sampled classes in training.

    The candidates are drawn with replacement and shared by the whole batch. Class k has probability
    P(k) = log((k + 2) / (k + 1)) / log(classes + 1), so classes should be in order of decreasing
    frequency. With S candidates, the loss of target y is

      log(exp(l_y) + sum over candidates k other than y of exp(l_k) / (S P(k))) - l_y.

    The sum has the expectation of the full softmax's sum, and the loss approaches the full
    softmax's from below as S grows. (TensorFlow's `sampled_softmax_loss` also divides exp(l_y).
    That is right for distinct candidates; these need not be distinct.)

    Weights and biases are `Embedding` layers that are called with ids: training never reads a
    table whole, but `logits` does.

    Args:
      classes: number of classes.
      samples: S, the number of candidates in a training step.
      seed: seed of the candidates.

    Reference:
      Jozefowicz et al., Exploring the Limits of Language Modeling (arXiv 1602.02410), section
      3.1; Bengio and Senecal, Adaptive Importance Sampling, for the estimate of the sum.
    """

    def __init__(self, classes: int, samples: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes, self.samples, self.seed = classes, samples, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        """Create the tables, of [classes, features] weights and [classes, 1] biases."""
        self.table = keras.layers.Embedding(
            self.classes, input_shape[-1], keras.initializers.VarianceScaling(), name="weights"
        )
        self.biases = keras.layers.Embedding(self.classes, 1, "zeros", name="biases")
        for layer in (self.table, self.biases):
            layer.build((None,))

    def call(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the sampled loss, in nats.

        Args:
          features: [..., features] float32.
          targets: target classes, [...] integers.

        Returns:
          [...] float32.
        """
        shape = ops.shape(targets)
        features = ops.reshape(features, [-1, features.shape[-1]])
        targets = ops.cast(ops.reshape(targets, [-1]), "int32")
        candidates = self.candidates()
        ids = ops.concatenate([targets, candidates], axis=0)
        weights, biases = self.table(ids), self.biases(ids)[:, 0]
        own = ops.sum(features * weights[: -self.samples], axis=-1) + biases[: -self.samples]
        others = ops.matmul(features, ops.transpose(weights[-self.samples :]))
        others += biases[-self.samples :] - ops.log(self.expected_counts(candidates))
        hit = ops.equal(targets[:, None], candidates[None, :])
        others = ops.where(hit, ops.cast(-1e9, others.dtype), others)
        every = ops.concatenate([own[:, None], others], axis=-1)
        return ops.reshape(ops.logsumexp(every, axis=-1) - own, shape)

    def candidates(self) -> Tensor:
        """Draw the candidates of a step, [samples] int32."""
        uniform = keras.random.uniform([self.samples], seed=self.seed_generator)
        drawn = ops.floor(ops.exp(uniform * math.log(self.classes + 1.0))) - 1.0
        # Rounding may exceed the range on either side.
        return ops.cast(ops.clip(drawn, 0, self.classes - 1), "int32")

    def expected_counts(self, ids: Tensor) -> Tensor:
        """Return the expected number of draws per step of each class in `ids`, float32."""
        ids = ops.cast(ids, "float32")
        return ops.log1p(1.0 / (ids + 1.0)) * (self.samples / math.log(self.classes + 1.0))

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of all classes.

        Args:
          features: [..., features] float32.

        Returns:
          [..., classes] float32.
        """
        table = ops.transpose(ops.convert_to_tensor(self.table.embeddings))
        return ops.matmul(features, table) + self.biases.embeddings[:, 0]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"classes": self.classes, "samples": self.samples, "seed": self.seed}
        return {**super().get_config(), **own}
