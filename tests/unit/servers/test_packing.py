from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_backup.servers.packing import Entry, Key, Layout, in_parts

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
    for key, size in [(SINGLE, 32), (WHOLE, 16), (FAR, 32), (HALF, 32)]:
        buffer = layout.pack(values, key)
        assert layout.size(key) == size
        assert buffer.shape == [size]
        assert buffer.dtype == key.dtype


def test_each_tensor_of_a_buffer_begins_at_a_multiple_of_64_bytes():
    layout, values = Layout(ENTRIES), values_of(ENTRIES)
    single = np.zeros(32, np.float32)
    single[:6], single[16] = np.ravel(values[0]), values[5]
    np.testing.assert_array_equal(layout.pack(values, SINGLE), single)
    whole = np.zeros(16, np.int64)
    whole[0], whole[8:12] = values[1], np.ravel(values[7])
    np.testing.assert_array_equal(layout.pack(values, WHOLE), whole)


def test_tensors_of_whole_rows_follow_each_other_without_a_gap():
    entries = [Entry((4, 8), SINGLE), Entry((16,), SINGLE)]
    layout, values = Layout(entries), values_of(entries)
    np.testing.assert_array_equal(layout.pack(values, SINGLE), np.arange(48))


def test_pack_looks_at_the_buffers_own_tensors_only():
    layout, values = Layout(ENTRIES), values_of(ENTRIES)
    buffer = layout.pack({2: values[2], 6: values[6]}, FAR)
    np.testing.assert_array_equal(buffer, layout.pack(values, FAR))


def test_pack_casts_to_the_dtype_of_the_buffer():
    layout = Layout([Entry((2,), HALF), Entry((2,), HALF)])
    buffer = layout.pack([tf.constant([1.5, 2.0]), tf.constant([3, 4])], HALF)
    assert buffer.dtype == tf.float16
    np.testing.assert_array_equal(buffer.numpy()[[0, 1, 32, 33]], [1.5, 2.0, 3.0, 4.0])


def test_unpack_gives_tensors_by_their_place_in_the_list():
    layout, values = Layout(ENTRIES), values_of(ENTRIES)
    tensors = layout.unpack(layout.pack(values, WHOLE), WHOLE)
    assert sorted(tensors) == [1, 7]
    assert_equal([tensors[1], tensors[7]], [values[1], values[7]])


def test_nbytes_counts_whole_rows_of_64_bytes():
    assert Layout(ENTRIES).nbytes == 64 * (2 + 2 + 2 + 1)
    assert Layout([Entry((0,), SINGLE)]).nbytes == 0
    assert Layout([Entry((17,), SINGLE)]).nbytes == 128


def test_sizes_of_scalars_and_empty_tensors():
    assert [entry.size for entry in ENTRIES] == [6, 1, 4, 0, 2, 1, 3, 4]


def test_layout_of_nothing():
    layout = Layout([])
    assert (layout.keys, layout.servers, layout.nbytes) == ([], [], 0)
    assert layout.unpack_all({}) == []


# ---- Parts ------------------------------------------------------------------------------------

KIB = 1024


def parts(*kib: float, key: Key = SINGLE) -> list[int]:
    """Return the part of each of some tensors, of which the KiB are given."""
    entries = [Entry((int(each * KIB) // key.dtype.size,), key) for each in kib]
    return [entry.key.part for entry in in_parts(entries)]


def test_little_is_one_part():
    assert parts(100, 200, 200) == [0, 0, 0]
    assert in_parts([]) == []


def test_much_is_in_parts_of_at_least_512_kib():
    assert parts(*[256] * 6) == [0, 0, 1, 1, 2, 2]


def test_there_are_at_most_8_parts():
    numbers = parts(*[1024] * 80)
    assert numbers == sorted(numbers)
    assert [numbers.count(part) for part in range(8)] == [10] * 8


def test_a_large_tensor_does_not_wait_for_those_before_it():
    assert parts(75, 1600, 5) == [0, 1, 1]


def test_what_is_very_small_is_no_part_of_its_own():
    assert parts(31, 1600) == [0, 0]
    assert parts(1600, 31) == [0, 0]
    assert parts(1600, 33) == [0, 1]


def test_each_server_and_dtype_has_its_own_parts():
    entries = [Entry((KIB * KIB,), key) for key in (SINGLE, FAR, HALF, SINGLE, FAR, HALF)]
    divided = in_parts(entries)
    assert [entry.key.part for entry in divided] == [0, 0, 0, 1, 1, 1]
    assert [entry.key[:2] for entry in divided] == [entry.key[:2] for entry in entries]
    assert [entry.shape for entry in divided] == [entry.shape for entry in entries]


def test_round_trip_in_parts():
    entries = in_parts(
        [Entry((300, KIB), SINGLE), Entry((7, 3), SINGLE), Entry((KIB, 500), SINGLE)]
    )
    layout, values = Layout(entries), values_of(entries)
    assert layout.keys == [SINGLE, SINGLE._replace(part=1)]
    assert_equal(round_trip(layout, values), values)
