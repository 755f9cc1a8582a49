"""Snapshot: workers read what was published, all of it and nothing later."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf

from tf_backup._tf.named import Name, open_handle
from tf_backup.servers.snapshot import Snapshot

VALUES: list[Any] = [
    np.float32([[1, 2], [3, 4]]),
    np.int64([2**60, -1]),
    np.float32(5),
    np.zeros([0, 3], np.float32),
    np.float64([0.1]),
    np.array([True, False]),
]


def read(snapshot: Snapshot) -> list[Any]:
    return [value.numpy() for value in tf.function(snapshot.read_all)()]


def assert_equal(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)


def test_what_is_read_is_what_was_published(one_device: Name) -> None:
    variables = [tf.Variable(value) for value in VALUES]
    snapshot = Snapshot(variables, one_device)
    snapshot.publish()
    assert_equal(read(snapshot), VALUES)
    variables[0].assign_add(tf.ones([2, 2]))
    variables[2].assign(-5.0)
    assert_equal(read(snapshot), VALUES)
    snapshot.publish()
    assert_equal(read(snapshot), [VALUES[0] + 1, VALUES[1], np.float32(-5), *VALUES[3:]])


def test_the_loop_publishes_in_a_graph(one_device: Name) -> None:
    variable = tf.Variable([1.0, 2.0])
    snapshot = Snapshot([variable], one_device)

    @tf.function(autograph=False)
    def update() -> Any:
        with tf.control_dependencies([variable.assign([3.0, 4.0])]):
            done = snapshot.write(0)
        with tf.control_dependencies(done):
            return tf.constant(True)

    update()
    assert_equal(read(snapshot), [np.float32([3, 4])])


def test_another_process_finds_the_buffers_by_name(one_device: Name) -> None:
    snapshot = Snapshot([tf.Variable([1.0, 2.0]), tf.Variable(3.0)], one_device)
    snapshot.publish()
    (buffer,) = snapshot.resources
    handle = open_handle(json.loads(json.dumps(buffer.spec())))
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
    (key,) = snapshot.layout.keys
    found = [each.numpy() for each in snapshot.layout.unpack_all({key: value})]
    assert_equal(found, [np.float32([1, 2]), np.float32(3)])
