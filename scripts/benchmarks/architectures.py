"""Models of the benchmark, each written once over Keras or plain TensorFlow layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from tf_backup.annotations import Tensor

LEARNING_RATE = 0.001  # Small: the loss of one repeated batch should not reach 0.


class Layers(Protocol):
    """Layers to write an architecture in. Padding is "same" or "valid"."""

    def dense(self, x: Tensor, units: int, activation: str | None = None) -> Tensor:
        """Return a dense layer of [batch, features]."""

    def conv(self, x: Tensor, filters: int, size: int, activation: str) -> Tensor:
        """Return a "same" convolution with a bias of [batch, height, width, channels]."""

    def conv_norm(
        self, x: Tensor, filters: int, size: tuple[int, int], strides: int, padding: str
    ) -> Tensor:
        """Return a convolution without a bias, batch normalization without a scale, and ReLU."""

    def max_pool(self, x: Tensor, size: int, strides: int) -> Tensor:
        """Return "valid" max-pooling."""

    def average_pool(self, x: Tensor) -> Tensor:
        """Return "same" average-pooling over 3 x 3 windows with strides of 1."""

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the parts side by side, along the last axis."""

    def flatten(self, x: Tensor) -> Tensor:
        """Return [batch, features]."""

    def embedding(self, ids: Tensor, rows: int, columns: int) -> Tensor:
        """Return [batch, ids, columns] of a table for [batch, ids]."""

    def mean(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the mean over axes."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model and the shape of its batches.

    Attributes:
      name: name on the command line and in CSV files.
      summary: description in one line.
      forward: the network, from [batch, *shape] to [batch, outputs].
      shape: shape of an example.
      batch_size: number of examples in one worker's batch.
      outputs: number of output features.
      ids: exclusive upper bound of integer inputs; None if inputs are float32.
      classes: True if the outputs are logits, trained with cross-entropy; False if they are
        values, trained with the mean squared error.
      process_gib: memory to allow for one process, in GiB.
    """

    name: str
    summary: str
    forward: Callable[[Layers, Tensor], Tensor]
    shape: tuple[int, ...]
    batch_size: int
    outputs: int
    ids: int | None = None
    classes: bool = True
    process_gib: float = 0.6


def _dense(net: Layers, x: Tensor) -> Tensor:
    for _ in range(61):
        x = net.dense(x, 64, "tanh")
    return x


def _cnn(net: Layers, x: Tensor) -> Tensor:
    x = net.max_pool(net.conv(x, 32, 3, "relu"), 2, 2)
    x = net.max_pool(net.conv(x, 64, 3, "relu"), 2, 2)
    x = net.dense(net.flatten(x), 128, "relu")
    return net.dense(x, 10)


def _square(layers: int, width: int) -> Callable[[Layers, Tensor], Tensor]:
    """Return a network of square dense layers, with layers * width * (width + 1) parameters."""

    def forward(net: Layers, x: Tensor) -> Tensor:
        for _ in range(layers):
            x = net.dense(x, width)
        return x

    return forward


def _embedding(net: Layers, ids: Tensor) -> Tensor:
    rows = net.embedding(ids, _TABLE_ROWS, 64)
    return net.dense(net.mean(rows, [1]), 1)


def _inception(net: Layers, x: Tensor) -> Tensor:
    """Inception v3 without the auxiliary head, layer by layer that of `keras.applications`."""
    x = _conv(net, x, 32, 3, 3, strides=2, padding="valid")
    x = _conv(net, x, 32, 3, 3, padding="valid")
    x = net.max_pool(_conv(net, x, 64, 3, 3), 3, 2)
    x = _conv(net, x, 80, 1, 1, padding="valid")
    x = net.max_pool(_conv(net, x, 192, 3, 3, padding="valid"), 3, 2)
    for pooled in (32, 64, 64):
        x = _module_35(net, x, pooled)
    x = _reduction_17(net, x)
    for between in (128, 160, 160, 192):
        x = _module_17(net, x, between)
    x = _reduction_8(net, x)
    for _ in range(2):
        x = _module_8(net, x)
    return net.dense(net.mean(x, [1, 2]), 1000)


def _conv(
    net: Layers,
    x: Tensor,
    filters: int,
    height: int,
    width: int,
    strides: int = 1,
    padding: str = "same",
) -> Tensor:
    return net.conv_norm(x, filters, (height, width), strides, padding)


def _module_35(net: Layers, x: Tensor, pooled: int) -> Tensor:
    one = _conv(net, x, 64, 1, 1)
    five = _conv(net, _conv(net, x, 48, 1, 1), 64, 5, 5)
    three = _conv(net, _conv(net, _conv(net, x, 64, 1, 1), 96, 3, 3), 96, 3, 3)
    pool = _conv(net, net.average_pool(x), pooled, 1, 1)
    return net.concatenate([one, five, three, pool])


def _reduction_17(net: Layers, x: Tensor) -> Tensor:
    three = _conv(net, x, 384, 3, 3, strides=2, padding="valid")
    double = _conv(net, _conv(net, x, 64, 1, 1), 96, 3, 3)
    double = _conv(net, double, 96, 3, 3, strides=2, padding="valid")
    return net.concatenate([three, double, net.max_pool(x, 3, 2)])


def _module_17(net: Layers, x: Tensor, between: int) -> Tensor:
    one = _conv(net, x, 192, 1, 1)
    seven = _conv(net, _conv(net, x, between, 1, 1), between, 1, 7)
    seven = _conv(net, seven, 192, 7, 1)
    double = _conv(net, _conv(net, x, between, 1, 1), between, 7, 1)
    double = _conv(net, _conv(net, double, between, 1, 7), between, 7, 1)
    double = _conv(net, double, 192, 1, 7)
    pool = _conv(net, net.average_pool(x), 192, 1, 1)
    return net.concatenate([one, seven, double, pool])


def _reduction_8(net: Layers, x: Tensor) -> Tensor:
    three = _conv(net, _conv(net, x, 192, 1, 1), 320, 3, 3, strides=2, padding="valid")
    seven = _conv(net, _conv(net, _conv(net, x, 192, 1, 1), 192, 1, 7), 192, 7, 1)
    seven = _conv(net, seven, 192, 3, 3, strides=2, padding="valid")
    return net.concatenate([three, seven, net.max_pool(x, 3, 2)])


def _module_8(net: Layers, x: Tensor) -> Tensor:
    one = _conv(net, x, 320, 1, 1)
    three = _conv(net, x, 384, 1, 1)
    three = net.concatenate([_conv(net, three, 384, 1, 3), _conv(net, three, 384, 3, 1)])
    double = _conv(net, _conv(net, x, 448, 1, 1), 384, 3, 3)
    double = net.concatenate([_conv(net, double, 384, 1, 3), _conv(net, double, 384, 3, 1)])
    pool = _conv(net, net.average_pool(x), 192, 1, 1)
    return net.concatenate([one, three, double, pool])


_TABLE_ROWS = 1_000_000

ALL = {
    each.name: each
    for each in (
        Architecture(
            "dense",
            "61 dense layers of 64 x 64: 122 small variables; batches of 32",
            _dense,
            shape=(64,),
            batch_size=32,
            outputs=64,
            classes=False,
        ),
        Architecture(
            "cnn",
            "two convolutions and two dense layers on images of 28 x 28; batches of 32",
            _cnn,
            shape=(28, 28, 1),
            batch_size=32,
            outputs=10,
        ),
        Architecture(
            "inception",
            "Inception v3 on images of 75 x 75: 24 million parameters; batches of 4",
            _inception,
            shape=(75, 75, 3),
            batch_size=4,
            outputs=1000,
            process_gib=1.5,
        ),
        Architecture(
            "embedding",
            "a table of 1,000,000 x 64, of which a batch of 32 looks 320 rows up",
            _embedding,
            shape=(10,),
            batch_size=32,
            outputs=1,
            ids=_TABLE_ROWS,
            classes=False,
            process_gib=1.5,
        ),
        Architecture(
            "tiny",
            "a dense layer of 1 x 1, batches of 1: what is left is the library's own work",
            _square(1, 1),
            shape=(1,),
            batch_size=1,
            outputs=1,
            classes=False,
        ),
        *(
            Architecture(
                f"dense_{size}",
                f"{layers} dense layer{'s'[: layers - 1]} of {width} x {width}, batches of 1: "
                f"{size} parameters, which take longer to send than to compute",
                _square(layers, width),
                shape=(width,),
                batch_size=1,
                outputs=width,
                classes=False,
                process_gib=process_gib,
            )
            for size, layers, width, process_gib in (
                ("0.1M", 1, 316, 0.6),
                ("1M", 1, 1000, 0.6),
                ("10M", 10, 1000, 1.0),
                ("100M", 100, 1000, 4.0),
            )
        ),
    )
}

DEFAULT = ("dense", "cnn", "inception", "embedding")  # The others show how costs grow.
