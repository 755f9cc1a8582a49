"""Batches of what `fit` is given: shuffled arrays of every kind, compared with Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.unit.arrays import KINDS, SAMPLES, SIZE, numbered, source
from tf_backup.keras.feed import Feed

pytestmark = pytest.mark.slow  # Computes for seconds.


def dense(part: Any) -> np.ndarray[Any, Any]:
    if isinstance(part, tf.RaggedTensor):
        return part.to_tensor().numpy()
    return (tf.sparse.to_dense(part) if isinstance(part, tf.SparseTensor) else part).numpy()


def read(dataset: tf.data.Dataset) -> list[int]:
    """Return the numbers of the samples in an epoch, in order."""
    found = []
    for x, y in dataset:
        found += [int(number) for number in y]
        np.testing.assert_array_equal(dense(x)[:, 0], y.numpy() + 1.0)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_shuffled_every_sample_comes_once_in_an_epoch(name: str) -> None:
    dataset = source(KINDS[name](numbered()), np.arange(SAMPLES)).dataset
    epochs = [read(dataset) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(SAMPLES))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3  # In a new order each time.


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize("name", KINDS)
def test_batches_are_of_keras_own_dtypes_and_shapes(name: str, shuffle: Any) -> None:
    x, y = KINDS[name](numbered()), np.arange(SAMPLES) / 2.0
    theirs = keras.src.trainers.data_adapters.get_data_adapter(
        x=x, y=y, batch_size=SIZE, shuffle=False
    ).get_tf_dataset()
    ours = source(x, y, shuffle=shuffle).dataset
    for one, other in zip(
        tf.nest.flatten(ours.element_spec), tf.nest.flatten(theirs.element_spec), strict=True
    ):
        assert (one.dtype, one.shape.as_list()) == (other.dtype, other.shape.as_list())
    assert tf.nest.flatten(ours.element_spec)[1].shape[0] == SIZE


def test_a_last_batch_that_is_smaller() -> None:
    x = numbered()[:-2]
    data = source(x, x)
    assert data.batches == 4
    assert sorted(len(batch[0]) for batch in data.dataset) == [2, 4, 4, 4]
    assert data.dataset.element_spec[0].shape.as_list() == [None, 2]


def test_shuffled_by_batches_each_keeps_its_samples() -> None:
    order = read(source(numbered(), np.arange(SAMPLES), shuffle="batch").dataset)
    assert order != sorted(order)
    parts = [sorted(order[i : i + SIZE]) for i in range(0, SAMPLES, SIZE)]
    assert parts == [list(range(i, i + SIZE)) for i in range(0, SAMPLES, SIZE)]


def test_text_and_nested_arrays() -> None:
    x = {"text": np.array([f"word {i}" for i in range(8)], object), "both": [np.arange(8)] * 2}
    first = next(iter(source(x, np.arange(8)).dataset))
    for text, number, label in zip(first[0]["text"], first[0]["both"][1], first[1], strict=True):
        assert text.numpy().decode() == f"word {int(number)}"
        assert int(number) == int(label)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="x has no samples; give at least one"):
        source(np.zeros([0, 2], np.float32))


def test_a_data_set_that_is_distributed_already() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    x = strategy.experimental_distribute_dataset(tf.data.Dataset.range(4).batch(2))
    with pytest.raises(TypeError, match="distributed already"):
        source(x, shuffle=False)


# ---- Steps ------------------------------------------------------------------------------------


def feed(steps: Any, **data: Any) -> Feed:
    data = {"x": numbered(), "y": np.arange(SAMPLES), "batch_size": 2, "shuffle": False, **data}
    return Feed(None, steps_per_epoch=steps, sample_weight=None, **data)


@pytest.mark.parametrize(
    ("most", "given", "made"), [(3, None, 3), (3, 5, 3), (3, 2, 2), (3, np.int64(5), 3)]
)
def test_max_steps_per_epoch(
    most: int, given: Any, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.config.set_max_steps_per_epoch(most)
    try:
        if given == made:
            found = feed(given, class_weight=None)
        else:
            with pytest.warns(UserWarning, match=f"Limiting steps_per_epoch to {most}"):
                found = feed(given, class_weight=None)
    finally:
        keras.config.set_max_steps_per_epoch(None)
    found.bind(workers=1, replicas=1)
    assert found.steps == made


def test_steps_are_whole_numbers() -> None:
    assert feed(np.int32(3), class_weight=None).steps == 3
    with pytest.raises(TypeError, match=r"steps_per_epoch must be an int, not 2\.5"):
        feed(2.5, class_weight=None)
    with pytest.raises(ValueError, match=r"steps_per_epoch is 0; .* 1 \(updates, each of N"):
        feed(0, class_weight=None)
    with pytest.raises(ValueError, match=r"steps \(or validation_steps\) is -1"):
        feed(-1)
