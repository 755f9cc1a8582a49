from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from tf_backup._tf import datasets
from tf_backup.testing import delay
from tf_backup.worker_data import WorkerData, open_pipeline

LIMIT = 12  # Elements to read from each pipeline, more than a finite one here has.


def pipelines(data: WorkerData) -> list[list[Any]]:
    """Return the first elements of each worker's pipeline, run in this process."""
    return [
        [element.numpy() for (element,) in itertools.islice(each, LIMIT)] for each in opened(data)
    ]


def opened(data: WorkerData, skip: int = 0) -> list[Any]:
    """Return each worker's pipeline, made from what travels to its process."""
    begun = data.start()
    about = json.loads(json.dumps(begun.describe()))
    graphs = begun.graphs
    return [
        open_pipeline(about, graphs[worker % len(graphs)], worker, skip)
        for worker in range(data.workers)
    ]


def repeated(*elements: int) -> list[int]:
    return list(itertools.islice(itertools.cycle(elements), LIMIT))


def of_length_unknown(length: int) -> tf.data.Dataset:
    return tf.data.Dataset.range(100).filter(lambda x: x < length)


# ---- A data set -------------------------------------------------------------------------------


def test_workers_share_a_data_set_and_repeat_it():
    data = WorkerData(tf.data.Dataset.range(5), workers=2)
    assert data.endless
    assert data.batches == 5
    assert pipelines(data) == [repeated(0, 2, 4), repeated(1, 3)]


def test_read_once_each_element_goes_to_one_worker():
    data = WorkerData(tf.data.Dataset.range(5), workers=2, repeat=False)
    assert not data.endless
    assert pipelines(data) == [[0, 2, 4], [1, 3]]


def test_one_worker_reads_all():
    data = WorkerData(tf.data.Dataset.range(3), workers=1)
    assert pipelines(data) == [repeated(0, 1, 2)]


def test_as_many_batches_as_workers_are_one_each():
    data = WorkerData(tf.data.Dataset.range(3), workers=3)
    assert pipelines(data) == [repeated(0), repeated(1), repeated(2)]


def test_of_fewer_batches_than_workers_everyone_reads_all():
    data = WorkerData(tf.data.Dataset.range(2), workers=3)
    assert pipelines(data) == [repeated(0, 1)] * 3


def test_of_fewer_batches_than_workers_read_once_some_get_none():
    data = WorkerData(tf.data.Dataset.range(2), workers=3, repeat=False)
    assert pipelines(data) == [[0], [1], []]


def test_no_batches_end_at_once():
    assert pipelines(WorkerData(tf.data.Dataset.range(0), workers=2)) == [[], []]


def test_endless_data_set_is_shared():
    data = WorkerData(tf.data.Dataset.range(3).repeat(), workers=2)
    assert data.batches is None
    assert pipelines(data) == [repeated(0, 2, 1), repeated(1, 0, 2)]


def test_data_set_of_unknown_length_is_read_once():
    data = WorkerData(of_length_unknown(5), workers=2)
    assert data.batches is None
    assert not data.endless
    assert pipelines(data) == [[0, 2, 4], [1, 3]]


def test_length_that_the_caller_knows_is_believed():
    data = WorkerData(of_length_unknown(5), workers=2, batches=5)
    assert data.endless
    assert pipelines(data) == [repeated(0, 2, 4), repeated(1, 3)]


def test_shuffle_without_a_seed_differs_by_worker():
    dataset = tf.data.Dataset.range(100).shuffle(100).repeat()
    first, second = (set(part) for part in pipelines(WorkerData(dataset, workers=2)))
    assert first != second


def test_elements_keep_their_structure():
    batches = {"x": tf.zeros([4, 2]), "y": tf.constant(["a", "b", "c", "d"])}
    dataset = tf.data.Dataset.from_tensor_slices(batches).batch(2, drop_remainder=True)
    data = WorkerData(dataset, workers=1)
    assert data.element_spec == dataset.element_spec
    (pipeline,) = opened(data)
    x, y = next(iter(pipeline))  # Flat, as in the iterator that the workers' program takes.
    assert x.shape == [2, 2]
    assert y.numpy().tolist() == [b"a", b"b"]


def test_the_first_elements_of_a_part_can_be_left_out():
    data = WorkerData(tf.data.Dataset.range(9), workers=2, repeat=False)
    parts = [[int(element) for (element,) in part] for part in opened(data, skip=2)]
    assert parts == [[4, 6, 8], [5, 7]]


def test_pipelines_that_are_started_again_have_another_number():
    data = WorkerData(tf.data.Dataset.range(9), workers=2)
    assert data.start().number != data.start().number


def test_the_name_of_a_python_operation_is_data_like_any_other():
    text = tf.data.Dataset.from_tensor_slices([b"PyFunc", b"EagerPyFunc"])
    assert pipelines(WorkerData(text, workers=1, repeat=False)) == [[b"PyFunc", b"EagerPyFunc"]]


# ---- Data sets that allow another order -------------------------------------------------------


def slowly(x: Any) -> Any:
    """Return x; every third element takes so long that others overtake it where they may."""
    turns = tf.where(x % 3 == 0, tf.constant(1_000, tf.int64), tf.constant(0, tf.int64))
    return x + tf.while_loop(lambda left: left > 0, lambda left: (left - 1,), [turns])[0]


def mapped(order: bool | None) -> tf.data.Dataset:
    return tf.data.Dataset.range(6).map(slowly, num_parallel_calls=4, deterministic=order)


def by_options(dataset: tf.data.Dataset, order: bool) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = order
    return dataset.with_options(options)


def interleaved(order: bool) -> tf.data.Dataset:
    """Read parts of the data as `tfds.load(shuffle_files=True)` reads files."""

    def part(x: Any) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors(x).repeat(2).map(slowly)

    parts = tf.data.Dataset.range(6).shuffle(6, seed=1, reshuffle_each_iteration=False)
    return parts.interleave(part, 6, num_parallel_calls=tf.data.AUTOTUNE, deterministic=order)


UNORDERED: dict[str, Callable[[bool], tf.data.Dataset]] = {
    "map": mapped,
    "options": lambda order: by_options(mapped(None), order),
    "interleave": interleaved,
    "map inside": lambda order: tf.data.Dataset.range(2).flat_map(lambda _: mapped(order)),
    "options around": lambda order: by_options(
        tf.data.Dataset.range(2).flat_map(lambda _: mapped(None)), order
    ),
}


def elements(dataset: tf.data.Dataset) -> list[int]:
    return [int(element) for element in dataset]


@pytest.mark.parametrize("make", UNORDERED.values(), ids=UNORDERED.keys())
def test_what_allows_another_order_is_read_in_order(make: Any):
    wanted = elements(make(True))
    assert any(elements(make(False)) != wanted for _ in range(20))
    data = WorkerData(make(False), workers=2, repeat=False)
    assert pipelines(data) == [wanted[0::2], wanted[1::2]]
    parts = [[int(element) for (element,) in part] for part in opened(data, skip=2)]
    assert parts == [wanted[4::2], wanted[5::2]]


def test_a_functions_data_set_is_read_in_order_where_another_worker_may_go_on():
    wanted = elements(mapped(True))
    assert pipelines(WorkerData(lambda _: mapped(False), 1, repeat=False)) == [wanted]
    data = WorkerData(lambda _: mapped(False), 1)
    assert any(pipelines(data) != [wanted] for _ in range(20))


def test_a_functions_shuffle_has_one_order_where_another_worker_may_go_on():
    data = WorkerData(lambda _: tf.data.Dataset.range(20).shuffle(20), 1, repeat=False)
    begun = data.start()
    whole, rest = (
        [int(element) for (element,) in open_pipeline(begun.describe(), begun.graphs[0], 0, skip)]
        for skip in (0, 5)
    )
    assert whole[5:] == rest
    assert sorted(whole) == [*range(20)] != whole


def sloppy(order: bool) -> Any:
    """Return operations of all kinds that may produce elements out of order."""
    data = tf.data.Dataset.range(4).batch(2, num_parallel_calls=2, deterministic=order)
    data = data.unbatch().apply(
        tf.data.experimental.parallel_interleave(
            tf.data.Dataset.range, cycle_length=2, sloppy=not order
        )
    )
    examples = data.map(lambda x: tf.fill([1], ""))
    parse = tf.data.experimental.parse_example_dataset
    features = {"a": tf.io.FixedLenFeature([], tf.int64, 0)}
    return by_options(examples.apply(parse(features, 2, deterministic=order)), order)


@pytest.mark.filterwarnings("ignore")  # Of the operations that are deprecated.
def test_every_kind_of_operation_is_told():
    graphs = [
        datasets.in_order(datasets.dataset_to_graph(sloppy(order))) for order in (False, True)
    ]
    one, other = (tf.compat.v1.GraphDef.FromString(graph.numpy()).node for graph in graphs)
    assert [(n.op, n.attr["deterministic"].s) for n in one] == [
        (n.op, n.attr["deterministic"].s) for n in other
    ]
    assert {n.attr["deterministic"].s for n in one} == {b"", b"true"}


# ---- A function -------------------------------------------------------------------------------


def test_each_worker_reads_its_own_data_set_once():
    data = WorkerData(lambda context: tf.data.Dataset.range(context.input_pipeline_id + 1), 3)
    assert not data.endless
    assert data.batches is None
    assert pipelines(data) == [[0], [0, 1], [0, 1, 2]]


def test_function_is_told_the_worker_and_how_many_there_are():
    contexts = []

    def dataset_fn(context: tf.distribute.InputContext) -> tf.data.Dataset:
        contexts.append((context.input_pipeline_id, context.num_input_pipelines))
        return tf.data.Dataset.range(1)

    pipelines(WorkerData(dataset_fn, workers=3))
    assert set(contexts) == {(0, 3), (1, 3), (2, 3)}


@pytest.mark.parametrize("wrong", [None, 3, [tf.zeros([1])]])
@pytest.mark.parametrize("worker", [0, 1])
def test_function_that_returns_no_data_set_is_refused(wrong: Any, worker: int):
    def dataset_fn(context: tf.distribute.InputContext) -> Any:
        return wrong if context.input_pipeline_id == worker else tf.data.Dataset.range(1)

    with pytest.raises(TypeError) as error:
        pipelines(WorkerData(dataset_fn, workers=2))
    told = f"dataset_fn returned {type(wrong).__name__} for worker {worker}; it must return"
    assert told in str(error.value)


@pytest.mark.parametrize(
    "other",
    [
        tf.data.Dataset.from_tensors(tf.zeros([2], tf.int64)),
        tf.data.Dataset.from_tensors(tf.zeros([3], tf.float32)),
        tf.data.Dataset.from_tensors((tf.zeros([3], tf.int64),)),
        tf.data.Dataset.from_tensors({"x": tf.zeros([3], tf.int64)}),
    ],
    ids=["shape", "dtype", "tuple", "dict"],
)
def test_functions_data_sets_must_be_alike(other: tf.data.Dataset):
    first = tf.data.Dataset.from_tensors(tf.zeros([3], tf.int64))
    with pytest.raises(ValueError) as error:
        pipelines(WorkerData(lambda context: [first, other][context.input_pipeline_id], 2))
    assert f"returns elements of {other.element_spec} for worker 1" in str(error.value)
    assert f"but of {first.element_spec} for worker 0" in str(error.value)


# ---- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("source", [None, 3, [1, 2]])
def test_neither_data_set_nor_function_is_refused(source: Any):
    with pytest.raises(TypeError, match=r"it must be a tf\.data\.Dataset or a function from"):
        WorkerData(source, workers=1)


def from_generator() -> tf.data.Dataset:
    spec = tf.TensorSpec([], tf.int32)
    return tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=spec)


def with_py_function() -> tf.data.Dataset:
    return tf.data.Dataset.range(3).map(lambda x: tf.py_function(abs, [x], tf.int64))


def with_numpy_function() -> tf.data.Dataset:
    return tf.data.Dataset.range(3).map(lambda x: tf.numpy_function(abs, [x], tf.int64))


@pytest.mark.parametrize("make", [from_generator, with_py_function, with_numpy_function])
@pytest.mark.parametrize("as_function", [False, True])
def test_data_set_that_calls_python_is_refused(make: Any, as_function: bool):
    with pytest.raises(ValueError, match=r"calls Python .*, which\s+the workers' processes"):
        WorkerData((lambda context: make()) if as_function else make(), workers=2)


# ---- Caches -----------------------------------------------------------------------------------


def nested_cache(path: str) -> tf.data.Dataset:
    inside = tf.data.Dataset.range(2).cache(path)
    return tf.data.Dataset.range(3).flat_map(lambda x: inside.map(lambda y: x + y))


@pytest.mark.parametrize("make", [tf.data.Dataset.range(3).cache, nested_cache])
def test_file_that_all_workers_would_cache_in_is_refused(make: Any):
    with pytest.raises(ValueError, match=r"has cache\('/tmp/x'\), a file that all 2 workers"):
        WorkerData(make("/tmp/x"), workers=2)
    with pytest.raises(ValueError, match="names a file for each"):
        WorkerData(lambda context: make("/tmp/x"), workers=2)


def test_each_worker_may_cache_in_memory_or_in_its_own_file(tmp_path: Any):
    assert pipelines(WorkerData(tf.data.Dataset.range(4).cache(), workers=2)) == [
        repeated(0, 2),
        repeated(1, 3),
    ]
    one = WorkerData(tf.data.Dataset.range(2).cache(str(tmp_path / "one")), workers=1)
    assert pipelines(one) == [repeated(0, 1)]
    own = WorkerData(
        lambda context: tf.data.Dataset.range(2).cache(
            str(tmp_path / f"{context.input_pipeline_id}")
        ),
        workers=2,
    )
    assert pipelines(own) == [[0, 1], [0, 1]]


# ---- delay ------------------------------------------------------------------------------------


def sleeps(dataset: tf.data.Dataset) -> bool:
    return b"SleepDataset" in datasets.dataset_to_graph(dataset).numpy()


def test_delay_sleeps_and_changes_no_element():
    dataset = tf.data.Dataset.range(5)
    slow = delay(dataset, 0.0001)
    assert sleeps(slow)
    assert not sleeps(dataset)
    assert slow.element_spec == dataset.element_spec
    assert int(slow.cardinality()) == 5
    assert [int(element) for element in slow] == [0, 1, 2, 3, 4]


def test_delay_keeps_the_structure_of_elements():
    dataset = tf.data.Dataset.from_tensors({"x": tf.eye(2), "y": (tf.constant("a"),)})
    element = next(iter(delay(dataset, 0.0001)))
    assert element["x"].numpy().tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert element["y"][0].numpy() == b"a"


@pytest.mark.parametrize("make", [tf.sparse.from_dense, tf.ragged.constant])
def test_delay_keeps_composite_elements(make: Any):
    dataset = tf.data.Dataset.from_tensors(make([[1, 0], [0, 2]]))
    slow = delay(dataset, 0.0001)
    assert slow.element_spec == dataset.element_spec
    element = next(iter(slow))
    dense = tf.sparse.to_dense(element) if make is tf.sparse.from_dense else element.to_tensor()
    assert dense.numpy().tolist() == [[1, 0], [0, 2]]


def test_no_delay_is_no_change():
    dataset = tf.data.Dataset.range(5)
    assert delay(dataset, 0.0) is dataset


def test_delayed_data_set_travels_to_the_workers():
    slow = delay(tf.data.Dataset.range(4), 0.0001)
    assert pipelines(WorkerData(slow, workers=2, repeat=False)) == [[0, 2], [1, 3]]
    of_one = WorkerData(lambda context: delay(tf.data.Dataset.range(2), 0.0001), workers=1)
    assert pipelines(of_one) == [[0, 1]]
