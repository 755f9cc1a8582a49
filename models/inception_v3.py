"""Inception v3, the model of the paper's ImageNet experiments, and variants for small images.

Reproduces the model of sections 2.0, 3.1 and 4.2 of Chen et al., Revisiting Distributed Synchronous
SGD (arXiv 1604.00981v3): Szegedy et al., Rethinking the Inception Architecture for Computer Vision
(arXiv 1512.00567), with the auxiliary classifier on the last 17 x 17 grid. The paper does not give
weight decay, label smoothing, dropout or batch-norm settings. The defaults are those of Google's
training code (tensorflow/models, inception): weight decay 4e-5, smoothing 0.1, keep probability
0.8, batch-norm decay 0.9997 and epsilon 0.001, and a weight of 0.4 for the auxiliary loss. As
there, the weight decay is 0.5 * 4e-5 * sum(w^2) over the kernels of convolutions and classifiers,
without biases and batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from models.tensor import Tensor

layers = keras.layers

_SMALLEST = {False: 75, True: 13}  # Smallest images that leave a pixel on the last grid.


def build(
    shape: tuple[int, int, int],
    classes: int,
    *,
    width: float = 1.0,
    modules: tuple[int, int, int] = (3, 4, 2),
    small_images: bool = False,
    auxiliary: bool = True,
    batch_norm_decay: float = 0.9997,
    weight_decay: float = 4e-5,
    keep: float = 0.8,
    seed: int | None = None,
) -> keras.Model:
    """Return an uncompiled Inception v3, or a reduced variant.

    Args:
      shape: height, width and channels of an image, whose values are in [0, 1].
      classes: number of classes.
      width: factor of all numbers of channels.
      modules: number of modules on each of the three grids; at most 3, 4, 2.
      small_images: whether the stem halves the image only once, instead of three times.
      auxiliary: whether to add the auxiliary classifier.
      batch_norm_decay: decay of the moving averages; 0.9997 needs about ten thousand updates.
      weight_decay: weight decay, as in the module's docstring.
      keep: probability with which dropout keeps a feature.
      seed: seed of dropout.

    Returns:
      A model from [batch, height, width, channels] float32 to a dictionary of "logits" and, with
      the auxiliary classifier, "auxiliary", both [batch, classes] float32.

    Raises:
      ValueError: if the images are too small, or `modules` is out of range.
    """
    _check(shape, modules, small_images)
    net = _Blocks(width, batch_norm_decay, weight_decay)
    images = keras.Input(shape)
    x = layers.Rescaling(2.0, -1.0)(images)
    x = _small_stem(net, x) if small_images else _stem(net, x)
    for pooled in (32, 64, 64)[: modules[0]]:
        x = _module_35(net, x, pooled)
    x = _reduction_17(net, x)
    for between in (128, 160, 160, 192)[: modules[1]]:
        x = _module_17(net, x, between)
    grid_17 = x
    x = _reduction_8(net, x)
    for _ in range(modules[2]):
        x = _module_8(net, x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(1 - keep, seed=seed)(x)
    outputs = {"logits": net.classifier(x, classes, "logits")}
    if auxiliary:
        outputs["auxiliary"] = net.classifier(_auxiliary(net, grid_17), classes, "auxiliary")
    return keras.Model(images, outputs, name="inception_v3")


def compile_arguments(auxiliary: bool = True, smoothing: float = 0.1) -> dict[str, Any]:
    """Return the loss, its weights and the metrics for `compile`.

    Args:
      auxiliary: as for `build`.
      smoothing: part of a label that is distributed over all classes.
    """
    names = ["logits", "auxiliary"] if auxiliary else ["logits"]
    return {
        "loss": {name: SmoothedCrossEntropy(smoothing) for name in names},
        "loss_weights": {"logits": 1.0, "auxiliary": 0.4} if auxiliary else None,
        "metrics": {"logits": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]},
    }


def prepare(image: Tensor, label: Tensor, auxiliary: bool = True) -> tuple[Tensor, Any]:
    """Return an example in which every classifier gets the label."""
    names = ["logits", "auxiliary"] if auxiliary else ["logits"]
    return image, {name: label for name in names}


def augmented(batches: tf.data.Dataset, seed: int = 0) -> tf.data.Dataset:
    """Return batches with about half of the images mirrored, different ones in every pass.

    Args:
      batches: batches of ([batch, height, width, channels] float32 images, labels). They must be
        endless, since the n-th batch is always changed in the same way.
      seed: seed of all changes.
    """

    def change(index: Tensor, batch: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        images, labels = batch
        draws = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], [seed, index])
        return tf.where(draws < 0.5, tf.reverse(images, axis=[2]), images), labels

    return tf.data.Dataset.zip(tf.data.Dataset.counter(), batches).map(change)


@keras.saving.register_keras_serializable(package="tf_backup_models")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of integer labels with label smoothing.

    Args:
      smoothing: part of a label that is distributed over all classes.
    """

    def __init__(self, smoothing: float = 0.1, name: str = "smoothed", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of [batch] labels and [batch, classes] logits, [batch] float32 nats."""
        log_p = keras.ops.log_softmax(y_pred)
        own = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), y_pred.shape[-1])
        own = keras.ops.sum(keras.ops.reshape(own, keras.ops.shape(log_p)) * log_p, axis=-1)
        every = keras.ops.mean(log_p, axis=-1)
        return -(1.0 - self.smoothing) * own - self.smoothing * every

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "smoothing": self.smoothing}


def _check(shape: tuple[int, int, int], modules: tuple[int, int, int], small: bool) -> None:
    smallest = _SMALLEST[small]
    if min(shape[:2]) < smallest:
        raise ValueError(
            f"images are {shape[0]} x {shape[1]}, but this Inception v3 needs {smallest} x "
            f"{smallest} or more: nothing would be left of them on the last grid. "
            + ("Enlarge them." if small else "Enlarge them, or use small_images=True.")
        )
    if any(not 0 <= count <= most for count, most in zip(modules, (3, 4, 2), strict=True)):
        raise ValueError(
            f"modules is {modules}, but Inception v3 has 3, 4 and 2 on its grids. "
            "Let none be more than that, or negative."
        )


class _Blocks:
    """Building blocks of the network: convolutions with batch norm, of scaled widths."""

    def __init__(self, width: float, batch_norm_decay: float, weight_decay: float) -> None:
        self.width, self.batch_norm_decay = width, batch_norm_decay
        self.weight_decay = weight_decay

    def conv(
        self,
        x: Tensor,
        filters: int,
        size: tuple[int, int],
        strides: int = 1,
        padding: str = "same",
    ) -> Tensor:
        x = layers.Conv2D(
            max(1, round(filters * self.width)),
            size,
            strides,
            padding,
            use_bias=False,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.1),
            kernel_regularizer=self._regularizer(),
        )(x)
        x = layers.BatchNormalization(momentum=self.batch_norm_decay, epsilon=1e-3, scale=False)(x)
        return layers.ReLU()(x)

    def chain(self, x: Tensor, *steps: tuple[int, int, int], strides: int = 1) -> Tensor:
        """Apply convolutions of (filters, height, width); the last may be strided, unpadded."""
        *first, (filters, height, width) = steps
        for each, each_height, each_width in first:
            x = self.conv(x, each, (each_height, each_width))
        return self.conv(x, filters, (height, width), strides, "valid" if strides > 1 else "same")

    def pooled(self, x: Tensor, filters: int) -> Tensor:
        return self.conv(layers.AveragePooling2D(3, 1, "same")(x), filters, (1, 1))

    def classifier(self, x: Tensor, classes: int, name: str) -> Tensor:
        return layers.Dense(classes, kernel_regularizer=self._regularizer(), name=name)(x)

    def _regularizer(self) -> Any:
        return keras.regularizers.L2(0.5 * self.weight_decay)


def _stem(net: _Blocks, x: Tensor) -> Tensor:
    x = net.conv(x, 32, (3, 3), 2, "valid")
    x = net.conv(x, 32, (3, 3), 1, "valid")
    x = net.conv(x, 64, (3, 3))
    x = layers.MaxPooling2D(3, 2)(x)
    x = net.conv(x, 80, (1, 1))
    x = net.conv(x, 192, (3, 3), 1, "valid")
    return layers.MaxPooling2D(3, 2)(x)


def _small_stem(net: _Blocks, x: Tensor) -> Tensor:
    x = net.chain(x, (64, 3, 3), (192, 3, 3))
    return layers.MaxPooling2D(3, 2, "same")(x)


def _module_35(net: _Blocks, x: Tensor, pooled: int) -> Tensor:
    return _joined(
        net.conv(x, 64, (1, 1)),
        net.chain(x, (48, 1, 1), (64, 5, 5)),
        net.chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        net.pooled(x, pooled),
    )


def _reduction_17(net: _Blocks, x: Tensor) -> Tensor:
    return _joined(
        net.chain(x, (384, 3, 3), strides=2),
        net.chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3), strides=2),
        layers.MaxPooling2D(3, 2)(x),
    )


def _module_17(net: _Blocks, x: Tensor, n: int) -> Tensor:
    return _joined(
        net.conv(x, 192, (1, 1)),
        net.chain(x, (n, 1, 1), (n, 1, 7), (192, 7, 1)),
        net.chain(x, (n, 1, 1), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7)),
        net.pooled(x, 192),
    )


def _reduction_8(net: _Blocks, x: Tensor) -> Tensor:
    return _joined(
        net.chain(x, (192, 1, 1), (320, 3, 3), strides=2),
        net.chain(x, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3), strides=2),
        layers.MaxPooling2D(3, 2)(x),
    )


def _module_8(net: _Blocks, x: Tensor) -> Tensor:
    one = net.conv(x, 384, (1, 1))
    two = net.chain(x, (448, 1, 1), (384, 3, 3))
    return _joined(
        net.conv(x, 320, (1, 1)),
        _joined(net.conv(one, 384, (1, 3)), net.conv(one, 384, (3, 1))),
        _joined(net.conv(two, 384, (1, 3)), net.conv(two, 384, (3, 1))),
        net.pooled(x, 192),
    )


def _auxiliary(net: _Blocks, x: Tensor) -> Tensor:
    """Return the features of the auxiliary classifier; windows shrink to fit a small grid."""
    x = layers.AveragePooling2D(_at_most_5(x), 3)(x)
    x = net.conv(x, 128, (1, 1))
    x = net.conv(x, 768, _at_most_5(x), 1, "valid")
    return layers.GlobalAveragePooling2D()(x)


def _at_most_5(x: Tensor) -> tuple[int, int]:
    return min(5, x.shape[1]), min(5, x.shape[2])


def _joined(*branches: Sequence[Tensor]) -> Tensor:
    return layers.Concatenate()(list(branches))
