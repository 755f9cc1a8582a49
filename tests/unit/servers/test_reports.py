"""Reports on updates: any structure of numbers travels, and comes back as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.unit.waiting_calls import in_thread, waits
from tf_backup._tf.named import Name
from tf_backup.servers.reports import Reports, structure_of

RESULTS = {
    "loss": np.float32(0.1),
    "counts": (np.int64([2**60 + 1, -3]), np.int32(7)),
    "matrix": np.float64([[0.1, np.inf], [np.nan, 1e300]]),
    "half": np.float16(0.5),
    "right": np.array([True, False]),
}


def event(step: int, tickets: list[int], places: list[int], staleness: list[int]) -> Any:
    return tf.constant([[step] * len(tickets), tickets, places, staleness], tf.int64)


def tensors(results: Any) -> Any:
    return tf.nest.map_structure(tf.constant, results)


def test_results_come_back_as_they_were(one_device: Name) -> None:
    reports = Reports(tensors(RESULTS), 2, one_device)
    reports.put(event(5, [30, 40], [2, 0], [0, 1]), tensors(RESULTS))
    (report,) = reports.read()
    assert report.step == 5
    assert report.places.tolist() == [2, 0]
    assert report.staleness.tolist() == [0, 1]
    tf.nest.assert_same_structure(report.results, RESULTS)
    for one, other in zip(tf.nest.flatten(report.results), tf.nest.flatten(RESULTS), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_reports_are_read_in_order_as_many_as_are_there(one_device: Name) -> None:
    reports = Reports(tf.constant(0.0), 1, one_device)
    for step in range(3):
        reports.put(event(step, [1], [0], [0]), tf.constant(float(step)))
    assert [(each.step, float(each.results)) for each in reports.read()] == [(0, 0), (1, 1), (2, 2)]
    later = in_thread(reports.read)
    assert waits(later)
    reports.put(event(3, [1], [0], [0]), tf.constant(3.0))
    assert [each.step for each in later.result(timeout=60)] == [3]


def test_an_update_of_fewer_than_n_names_only_those(one_device: Name) -> None:
    reports = Reports(tf.constant(0.0), 3, one_device)
    reports.put(event(5, [30, 40, -1], [1, 2, -1], [0, 0, -1]), tf.constant(0.0))
    (report,) = reports.read()
    assert (report.places.tolist(), report.staleness.tolist()) == ([1, 2], [0, 0])


def test_the_end_is_a_report_below_0(one_device: Name) -> None:
    reports = Reports(tensors(RESULTS), 2, one_device)
    reports.put_end(tf.fill([4, 2], np.int64(-2)))
    (report,) = reports.read()
    assert report.step < 0


def test_what_is_no_number_is_refused(one_device: Name) -> None:
    with pytest.raises(TypeError, match="dtype string; it must be a number"):
        Reports({"loss": tf.constant(0.0), "name": tf.constant("a")}, 1, one_device)


def test_results_of_unknown_shape_are_refused(one_device: Name) -> None:
    with pytest.raises(TypeError, match="must return a tensor of static shape"):
        Reports(tf.TensorSpec([None], tf.float32), 1, one_device)


def test_a_structure_is_known_without_running_the_function() -> None:
    total = tf.Variable(0.0)

    def results(means: list[Any]) -> dict[str, Any]:
        total.assign_add(1.0)
        return {"loss": means[0], "twice": (2 * tf.stack(means),)}

    structure = structure_of(results, [tf.constant(1.0), tf.constant(2.0)])
    assert structure["loss"].shape == []
    assert structure["twice"][0].shape == [2]
    assert float(total) == 0
