"""Placement of operations beside their largest input, in graphs that are only built."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tf_backup._tf.runtime import ps_device
from tf_backup.servers.placement import with_its_inputs

SMALL, LARGE = ps_device(1), ps_device(2)


def on(device: str, shape: Any) -> Any:
    """Return a tensor of a graph on a device."""
    with tf.device(device):
        return tf.compat.v1.placeholder(tf.float32, shape)


@pytest.mark.parametrize("turned", [False, True])
def test_an_operation_goes_to_its_largest_input(turned: bool) -> None:
    with tf.Graph().as_default():
        pair = [on(SMALL, [2]), on(LARGE, [5])]
        with with_its_inputs():
            assert tf.concat(pair[::-1] if turned else pair, axis=0).device == LARGE


def test_what_is_made_of_a_result_goes_there_too() -> None:
    with tf.Graph().as_default():
        large = on(LARGE, [5])
        with with_its_inputs():
            assert tf.sqrt(tf.reduce_sum(large * large)).device == LARGE


def test_an_unknown_shape_is_taken_for_a_large_one() -> None:
    with tf.Graph().as_default():
        large, unknown = on(LARGE, [1000]), on(SMALL, [None])
        with with_its_inputs():
            assert tf.concat([large, unknown], axis=0).device == SMALL


def test_a_variable_counts_more_than_any_value() -> None:
    with tf.Graph().as_default():
        with tf.device(SMALL):
            handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[1000])
        value = on(LARGE, [1000])
        with with_its_inputs():
            assert tf.raw_ops.AssignVariableOp(resource=handle, value=value).device == SMALL
            read = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
            assert read.device == SMALL


def test_a_device_that_is_given_stays() -> None:
    with tf.Graph().as_default():
        large = on(LARGE, [5])
        with with_its_inputs(), tf.device(SMALL):
            assert (large + 1.0).device == SMALL


def test_without_inputs_there_is_no_device() -> None:
    with tf.Graph().as_default(), with_its_inputs():
        assert tf.raw_ops.NoOp().device == ""
        assert tf.constant(1.0).device == ""


def test_captured_tensors_are_where_they_are_outside() -> None:
    outside = tf.ones([1000])  # TensorFlow copies small ones into the graph.
    found = []

    def traced() -> Any:
        with with_its_inputs():
            result = outside * 2.0
        found.append(result.device)
        return result

    tf.function(traced, autograph=False).get_concrete_function()
    assert found == [outside.device]
    assert outside.device


def test_outside_of_the_context_operations_have_no_device() -> None:
    with tf.Graph().as_default():
        large = on(LARGE, [5])
        with with_its_inputs():
            pass
        assert (large + 1.0).device == ""
