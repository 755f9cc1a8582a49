"""DRAW, a generative model of images that paints on a canvas glimpse by glimpse.

Reproduces the model of section 4.4 of Chen et al. (only in the workshop version, arXiv
1604.00981v1), which only says that it is DRAW on MNIST: Gregor et al., DRAW: A Recurrent Neural
Network For Image Generation (arXiv 1502.04623), equations 3 to 29. The paper's recipe uses the
sizes of Gregor et al. for MNIST, with attention. Here images are binarized at one half; there the
binary values were drawn once, at random.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from models.attention import Attention
from models.tensor import Tensor

layers = keras.layers


def build(shape: tuple[int, int, int] = (28, 28, 1), **sizes: Any) -> keras.Model:
    """Return an uncompiled DRAW model with all its variables.

    Args:
      shape: height, width and channels (1) of an image.
      **sizes: arguments of `Draw`.

    Returns:
      A model from images, [batch, height, width, 1] float32 in [0, 1], to a dictionary of the
      "canvas", [batch, height, width, 1] float32 logits, and "kl", [batch] float32 nats.

    Raises:
      ValueError: if the images have more than one channel.
    """
    if shape[-1] != 1:
        raise ValueError(
            f"images have {shape[-1]} channels, but DRAW paints black on white: it needs one. "
            "Take the mean of the channels."
        )
    model = Draw(shape, **sizes)
    model.build((None, *shape))
    return model


def compile_arguments() -> dict[str, Any]:
    """Return arguments for `compile`: none, as the model has its own loss and metrics."""
    return {}


def prepare(image: Tensor, label: Tensor) -> tuple[Tensor]:
    """Return an example: the binarized image, without a label."""
    del label
    return (tf.round(image),)


@keras.saving.register_keras_serializable(package="tf_backup_models")
class Draw(keras.Model):
    """DRAW's encoder, decoder and canvas, with the loss and metrics.

    The loss is an upper bound on -log p of an image in nats, for one sample of the latent
    variables: cross-entropy of the canvas plus the glimpses' KL divergences from the prior.

    Args:
      shape: height, width and channels of an image.
      glimpses: T, the number of glimpses, each followed by a stroke.
      units: number of cells in the encoder's LSTM, and in the decoder's.
      latent: size of the latent variable of a glimpse.
      read: height and width of a glimpse; None to see the whole image, without attention.
      write: height and width of a stroke; None to paint the whole image, without attention.
      seed: seed of the latent variables.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        glimpses: int = 10,
        units: int = 128,
        latent: int = 10,
        read: int | None = 5,
        write: int | None = 5,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        own = {"shape": tuple(shape), "glimpses": glimpses, "units": units, "latent": latent}
        self._arguments = {**own, "read": read, "write": write, "seed": seed}
        self.image_shape, self.glimpses, self.units = tuple(shape), glimpses, units
        self.latent = latent
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.reader = None if read is None else Attention(shape[:2], read, name="reader")
        self.writer = None if write is None else Attention(shape[:2], write, name="writer")
        self.encoder = layers.LSTMCell(units, name="encoder")
        self.decoder = layers.LSTMCell(units, name="decoder")
        self.posterior = layers.Dense(2 * latent, name="posterior")
        self.stroke = layers.Dense(math.prod(shape) if write is None else write**2, name="stroke")
        self.bound = keras.metrics.Mean(name="nats")
        self.kl = keras.metrics.Mean(name="kl")

    def build(self, input_shape: Any) -> None:
        """Create all variables."""
        del input_shape
        size = self.reader.size**2 if self.reader else math.prod(self.image_shape)
        self.encoder.build((None, 2 * size + self.units))
        self.decoder.build((None, self.latent))
        for layer in (self.posterior, self.stroke, self.reader, self.writer):
            if layer is not None:
                layer.build((None, self.units))

    def call(self, images: Tensor) -> dict[str, Tensor]:
        """Encode images and reconstruct them; see `build`."""
        count = ops.shape(images)[0]
        images = ops.reshape(images, [count, *self.image_shape[:2]])
        noise = self.noise(count)

        def look_and_paint(glimpse: Tensor, state: Any) -> Any:
            canvas, encoder, decoder, kl = state
            seen = self._read(images, images - ops.sigmoid(canvas), decoder[0])
            _, encoder = self.encoder(ops.concatenate([seen, decoder[0]], axis=-1), encoder)
            mean, log_sd = ops.split(self.posterior(encoder[0]), 2, axis=-1)
            # Twice the KL divergence from the standard normal distribution.
            each = ops.square(mean) + ops.exp(2.0 * log_sd) - 2.0 * log_sd - 1.0
            latent = mean + ops.exp(log_sd) * noise[glimpse]
            canvas, decoder = self._paint(canvas, decoder, latent)
            return canvas, encoder, decoder, kl + 0.5 * ops.sum(each, axis=-1)

        start = (ops.zeros_like(images), *self._start(count, 2), ops.zeros([count]))
        canvas, _, _, kl = ops.fori_loop(0, self.glimpses, look_and_paint, start)
        return {"canvas": canvas[..., None], "kl": kl}

    def imagine(self, noise: Tensor) -> Tensor:
        """Generate images from latent variables.

        Args:
          noise: [glimpses, count, latent] float32, drawn from the prior; see `noise`.

        Returns:
          Probabilities of white, [count, height, width, 1] float32.
        """
        count = ops.shape(noise)[1]

        def paint(glimpse: Tensor, state: Any) -> Any:
            canvas, decoder = state
            return self._paint(canvas, decoder, noise[glimpse])

        start = (ops.zeros([count, *self.image_shape[:2]]), *self._start(count, 1))
        canvas, _ = ops.fori_loop(0, self.glimpses, paint, start)
        return ops.sigmoid(canvas)[..., None]

    def noise(self, count: Tensor) -> Tensor:
        """Draw latent variables from the prior, [glimpses, count, latent] float32."""
        return keras.random.normal([self.glimpses, count, self.latent], seed=self.seed_generator)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the mean of the bound on -log p of the images `x`, in nats."""
        del y, training
        if sample_weight is not None:
            raise ValueError("sample_weight is given, but every image counts once. Leave it out.")
        logits = y_pred["canvas"]
        each = ops.softplus(logits) - ops.cast(x, logits.dtype) * logits
        nats = ops.sum(each, axis=(1, 2, 3)) + y_pred["kl"]
        self.bound.update_state(nats)
        self.kl.update_state(y_pred["kl"])
        return ops.mean(nats)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **self._arguments}

    def _start(self, count: Tensor, cells: int) -> list[list[Tensor]]:
        return [[ops.zeros([count, self.units]) for _ in range(2)] for _ in range(cells)]

    def _read(self, images: Tensor, error: Tensor, decoder: Tensor) -> Tensor:
        if self.reader is None:
            both = [images, error]
        else:
            window = self.reader(decoder)
            both = [window.read(images), window.read(error)]
        return ops.concatenate([layers.Flatten()(each) for each in both], axis=-1)

    def _paint(
        self, canvas: Tensor, decoder: list[Tensor], latent: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        output, decoder = self.decoder(latent, decoder)
        stroke = self.stroke(output)
        if self.writer is None:
            return canvas + ops.reshape(stroke, ops.shape(canvas)), decoder
        stroke = ops.reshape(stroke, [-1, self.writer.size, self.writer.size])
        return canvas + self.writer(output).write(stroke), decoder


def sample(model: Draw, count: int) -> np.ndarray[Any, Any]:
    """Return images drawn from the model's prior, with the model's seed generator.

    Returns:
      [count, height, width, 1] float32 in [0, 1]; `picture.write` saves them to a file.
    """
    images: np.ndarray[Any, Any] = keras.ops.convert_to_numpy(model.imagine(model.noise(count)))
    return images
