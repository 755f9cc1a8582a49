from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_backup.servers.packing import Entry, Key, Layout

SINGLE, HALF, WHOLE = Key(0, tf.float32), Key(0, tf.float16), Key(1, tf.int64)
FAR = Key(1, tf.float32)

# Two servers and three dtypes in mixed order, with scalars and empty tensors.
ENTRIES = [
    Entry((2, 3), SINGLE),
    Entry((), WHOLE),
    Entry((4,), FAR),
    Entry((0, 5), SINGLE),
    Entry((2,), HALF),
    Entry((), SINGLE),
    Entry((1, 1, 3), FAR),
    Entry((2, 2), WHOLE),
]


def values_of(entries: list[Entry]) -> list[Any]:
    """Return tensors whose elements are all different."""
    first, values = 0, []
    for entry in entries:
        numbers = np.arange(first, first + entry.size).reshape(entry.shape)
        values.append(tf.constant(numbers, entry.key.dtype))
        first += entry.size
    return values


def assert_equal(tensors: list[Any], expected: list[Any]) -> None:
    for tensor, right in zip(tensors, expected, strict=True):
        assert tensor.dtype == right.dtype
        assert tensor.shape == right.shape
        np.testing.assert_array_equal(tensor, right)


def round_trip(layout: Layout, values: Any) -> list[Any]:
    return layout.unpack_all({key: layout.pack(values, key) for key in layout.keys})


@pytest.mark.parametrize("traced", [False, True])
def test_round_trip(traced: bool):
    layout, values = Layout(ENTRIES), values_of(ENTRIES)

    def trip(*tensors: Any) -> list[Any]:
        return round_trip(layout, tensors)

    assert_equal((tf.function(trip) if traced else trip)(*values), values)


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_round_trip_of_one(entry: Entry):
    values = values_of([entry])
    assert_equal(round_trip(Layout([entry]), values), values)


def test_one_buffer_per_server_and_dtype():
    layout = Layout(ENTRIES)
    assert layout.keys == [SINGLE, WHOLE, FAR, HALF]
    assert layout.servers == [0, 1]
    assert layout.keys_on(0) == [SINGLE, HALF]
    assert layout.keys_on(1) == [WHOLE, FAR]
    assert layout.keys_on(2) == []


def test_buffers_are_flat_and_of_their_dtype():
    layout, values = Layout(ENTRIES), values_of(ENTRIES)
    for key, size in [(SINGLE, 7), (WHOLE, 5), (FAR, 7), (HALF, 2)]:
        buffer = layout.pack(values, key)
        assert layout.size(key) == size
        assert buffer.shape == [size]
        assert buffer.dtype == key.dtype


def test_a_buffer_has_its_tensors_one_after_the_other():
    layout, values = Layout(ENTRIES), values_of(ENTRIES)
    flat = [np.ravel(values[index]) for index in (0, 3, 5)]
    np.testing.assert_array_equal(layout.pack(values, SINGLE), np.concatenate(flat))


def test_pack_looks_at_the_buffers_own_tensors_only():
    layout, values = Layout(ENTRIES), values_of(ENTRIES)
    buffer = layout.pack({2: values[2], 6: values[6]}, FAR)
    np.testing.assert_array_equal(buffer, layout.pack(values, FAR))


def test_pack_casts_to_the_dtype_of_the_buffer():
    layout = Layout([Entry((2,), HALF), Entry((2,), HALF)])
    buffer = layout.pack([tf.constant([1.5, 2.0]), tf.constant([3, 4])], HALF)
    assert buffer.dtype == tf.float16
    np.testing.assert_array_equal(buffer, [1.5, 2.0, 3.0, 4.0])


def test_unpack_gives_tensors_by_their_place_in_the_list():
    layout, values = Layout(ENTRIES), values_of(ENTRIES)
    tensors = layout.unpack(layout.pack(values, WHOLE), WHOLE)
    assert sorted(tensors) == [1, 7]
    assert_equal([tensors[1], tensors[7]], [values[1], values[7]])


def test_nbytes_counts_every_element_once():
    assert Layout(ENTRIES).nbytes == 7 * 4 + 7 * 4 + 5 * 8 + 2 * 2
    assert Layout([Entry((0,), SINGLE)]).nbytes == 0


def test_sizes_of_scalars_and_empty_tensors():
    assert [entry.size for entry in ENTRIES] == [6, 1, 4, 0, 2, 1, 3, 4]


def test_layout_of_nothing():
    layout = Layout([])
    assert (layout.keys, layout.servers, layout.nbytes) == ([], [], 0)
    assert layout.unpack_all({}) == []
