"""Programs for workers: what one process stores, another one fetches and runs."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from typing import Any

import pytest
import tensorflow as tf

from tf_backup._tf import serialized
from tf_backup._tf.named import Boxed, Name, NamedVariable, open_handle, read_strings
from tf_backup.servers.program import Program
from tf_backup.worker_data import Pipelines, WorkerData


def data_of(count: int) -> Pipelines:
    return WorkerData(tf.data.Dataset.range(count), workers=1, repeat=False).start()


def adds_to(handle: Any) -> Any:
    """Return a traced function that adds its argument to the variable behind a handle."""

    def add(number: Any) -> Any:
        tf.raw_ops.AssignAddVariableOp(resource=handle, value=number)
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)

    return tf.function(add, autograph=False).get_concrete_function(tf.TensorSpec([], tf.float32))


def fetched(job: dict[str, Any]) -> tuple[dict[str, Any], Sequence[bytes]]:
    """Return what a worker gets for a job that the board has carried: functions and data."""
    job = json.loads(json.dumps(job))
    parts = read_strings(job["program"])
    functions = dict(map(serialized.load, parts[::2], parts[1::2]))
    return functions, read_strings(job["data"]["graphs"])


def test_a_worker_runs_the_functions_on_the_same_state(one_device: Name) -> None:
    variable = NamedVariable(0, one_device / "sum", tf.float32, [])
    variable.assign(1.0)
    program = Program({"add": adds_to(variable.handle)}, [variable], one_device / "program")
    data = data_of(3)
    job = program.job("train", data, run=7)
    assert (job["kind"], job["run"]) == ("train", 7)
    functions, graphs = fetched(job)
    assert list(graphs) == list(data.graphs)
    (total,) = functions["add"](tf.constant(2.0))
    assert (float(total), float(variable)) == (3, 3)


def test_resources_that_workers_do_not_have_are_refused(one_device: Name) -> None:
    variable = NamedVariable(0, one_device / "sum", tf.float32, [])
    with pytest.raises(ValueError, match="only the chief's process has"):
        Program({"add": adds_to(variable.handle)}, [], one_device / "program")


def test_data_are_written_once_and_until_they_change(one_device: Name) -> None:
    program = Program({}, [], one_device / "program")
    one, other = data_of(3), data_of(5)
    first = program.job("train", one)
    assert program.job("train", one) == first
    _, graphs = fetched(program.job("train", other))
    assert list(graphs) == list(other.graphs)
    with pytest.raises(tf.errors.OpError):
        fetched(first)  # The servers keep the latest data only.


def test_forgotten_data_are_deleted_and_may_come_back(one_device: Name) -> None:
    program = Program({}, [], one_device / "program")
    data = data_of(3)
    job = program.job("train", data)
    program.forget_data()
    with pytest.raises(tf.errors.OpError):
        fetched(job)
    _, graphs = fetched(program.job("train", data))
    assert list(graphs) == list(data.graphs)


def test_boxes_are_full_while_there_is_a_job(one_device: Name) -> None:
    table = tf.Variable(5.0)
    box = Boxed(table.handle, 0, one_device / "box")
    program = Program({"add": adds_to(table.handle)}, [box], one_device / "program")

    def size() -> int:
        return int(tf.raw_ops.MapSize(dtypes=[tf.resource], **(one_device / "box").attributes()))

    assert size() == 0
    for _ in range(2):  # Also if there was a job before.
        functions, _ = fetched(program.job("train", data_of(3)))
        assert size() == 1
    (total,) = functions["add"](tf.constant(1.0))
    assert (float(total), float(table)) == (6, 6)
    assert open_handle(box.spec()).dtype == tf.resource
    program.forget_data()
    assert size() == 0


def test_a_job_names_the_programs_that_are_in_use(one_device: Name) -> None:
    one, other = (Program({}, [], one_device / name) for name in ("one", "other"))
    data = data_of(3)
    names = {one_device.name + "/one", one_device.name + "/other"}
    assert names <= set(one.job("train", data)["programs"])
    del other
    gc.collect()
    assert names & set(one.job("train", data)["programs"]) == {one_device.name + "/one"}
