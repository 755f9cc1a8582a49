"""Queue of batches: each is taken once, in order, and whoever waits can be released."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf

from tests.unit.waiting_calls import in_thread, waits
from tf_backup._tf.named import Name
from tf_backup.servers.batch_queue import BatchQueue, BatchReader

SPEC = {"x": tf.TensorSpec([None, 2], tf.float32), "y": tf.TensorSpec([None], tf.int64)}
TIMEOUT_S = 60


def batch(number: int, size: int = 3) -> dict[str, Any]:
    return {"x": tf.fill([size, 2], float(number)), "y": tf.fill([size], np.int64(number))}


def reader(queue: BatchQueue) -> BatchReader:
    """Return the end of a worker that has read the queue's spec from the board."""
    return BatchReader(json.loads(json.dumps(queue.spec())))


def numbers(elements: Any) -> list[int]:
    return [int(flat[1][0]) for flat in elements]


def test_batches_arrive_as_they_were_and_then_end(one_device: Name) -> None:
    queue = BatchQueue(one_device, SPEC, capacity=4)
    for number in range(3):
        queue.put(batch(number, size=number + 1))
    queue.close()
    elements = list(reader(queue).dataset())
    assert numbers(elements) == [0, 1, 2]
    for number, (x, y) in enumerate(elements):
        np.testing.assert_array_equal(x, batch(number, size=number + 1)["x"])
        np.testing.assert_array_equal(y, batch(number, size=number + 1)["y"])
    assert queue.join(TIMEOUT_S)
    assert queue.error is None


def test_each_batch_goes_to_the_worker_that_asks_first(one_device: Name) -> None:
    queue = BatchQueue(one_device, SPEC, capacity=8)
    for number in range(5):
        queue.put(batch(number))
    queue.close()
    one, other = iter(reader(queue).dataset()), iter(reader(queue).dataset())
    taken = [numbers([next(each)])[0] for each in (one, other, other)]
    assert taken == [0, 1, 2]
    assert numbers(one) == [3, 4]
    assert numbers(other) == []


def test_a_full_queue_makes_the_chief_wait(one_device: Name) -> None:
    queue = BatchQueue(one_device, SPEC, capacity=1)
    puts = [in_thread(queue.put, batch(number)) for number in range(8)]
    assert waits(*puts)
    elements = iter(reader(queue).dataset())
    assert sorted(numbers([next(elements) for _ in puts])) == list(range(8))
    for put in puts:
        put.result(TIMEOUT_S)
    assert not queue.join(0.0)
    queue.close()
    assert queue.join(TIMEOUT_S)


def test_a_put_that_waits_can_be_cut_off(one_device: Name) -> None:
    queue = BatchQueue(one_device, SPEC, capacity=1)
    puts = [in_thread(queue.put, batch(number)) for number in range(8)]
    queue.cut_off()
    errors = [put.exception(TIMEOUT_S) for put in puts]
    assert any(isinstance(error, tf.errors.CancelledError) for error in errors)
    assert queue.join(TIMEOUT_S)
    assert queue.error is None


def test_a_worker_that_waits_for_a_batch_can_be_released(one_device: Name) -> None:
    queue = BatchQueue(one_device, SPEC, capacity=1)
    mine = reader(queue)
    elements = iter(mine.dataset())
    taken = in_thread(next, elements, None)
    assert waits(taken)
    mine.close()
    assert taken.result(TIMEOUT_S) is None
    queue.cut_off()
    assert queue.join(TIMEOUT_S)
