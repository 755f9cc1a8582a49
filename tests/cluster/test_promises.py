"""Promises: exactly N, at most once, every gradient counted, no growth of a step with a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.scripted import Script, ScriptedData, two_server_model, weights
from tests.cluster.shared import Shared

pytestmark = pytest.mark.parametrize("cluster", [(4, 2)], indirect=True)


@pytest.fixture(scope="module")
def made(cluster: tf_backup.LocalCluster) -> Shared:
    return Shared(cluster.strategy(), two_server_model(cluster.strategy(), 1.0, 2, backups=2))


@pytest.fixture
def shared(made: Shared) -> Shared:
    """A model with N = 2, b = 2 and a learning rate of 1."""
    made.set_back()
    return made


def fit(model: Any, data: ScriptedData, events: list[tuple[int, float]], updates: int) -> None:
    with Script(model, data, events):
        model.fit(data, steps_per_epoch=updates, verbose=0)


def moves(before: list[Any], after: list[Any]) -> list[float]:
    return [float(a[0, 0] - b[0, 0]) for a, b in zip(before, after, strict=True)]


def test_first_n_make_the_update_on_both_servers(shared: Shared, tmp_path: Path) -> None:
    model = shared.model
    assert len({v.value.device for v in model.trainable_variables}) == 2
    before = weights(model)
    fit(model, ScriptedData(tmp_path), [(3, 1.0), (1, 3.0)], updates=1)
    assert moves(before, weights(model)) == pytest.approx([2.0, 2.0])
    assert [record["accepted"] for record in shared.counts()] == [0, 1, 0, 1]


def test_late_and_stale_are_counted_and_move_nothing(shared: Shared, tmp_path: Path) -> None:
    model = shared.model
    before = weights(model)
    # Worker 0 is third in step 0: late, or stale if the update was quicker. Worker 2 delivers its
    # gradient of step 0 when step 1 has started: stale. Its next one is accepted.
    events = [(3, 1.0), (1, 3.0), (0, 1e6), (3, 10.0), (2, 1e6), (2, 30.0)]
    fit(model, ScriptedData(tmp_path), events, updates=2)
    assert moves(before, weights(model)) == pytest.approx([22.0, 22.0])
    workers = shared.counts()
    assert [record["accepted"] for record in workers] == [0, 1, 1, 2]
    assert workers[2]["stale"] == 1
    assert workers[0]["late"] + workers[0]["stale"] == 1
    total = shared.total()
    assert total["computed"] == total["accepted"] + total["late"] + total["stale"]
    assert shared.updates == 2


def test_one_worker_never_contributes_twice_to_a_step(shared: Shared, tmp_path: Path) -> None:
    model = shared.model
    data = ScriptedData(tmp_path)
    for value in (1.0, 5.0, 7.0):
        data.release(0, value)  # All at once: the worker may not fill step 0 alone.
    before = weights(model)
    fit(model, data, [(2, 3.0), (2, 15.0)], updates=2)
    assert moves(before, weights(model)) == pytest.approx([12.0, 12.0])
    assert [record["accepted"] for record in shared.counts()] == [2, 0, 2, 0]


def delayed(seconds: list[float]) -> Any:
    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensors((tf.ones([1, 1]), tf.zeros([1, 1]))).repeat()
        return tf_backup.delay(dataset, seconds[context.input_pipeline_id])

    return batches


def test_updates_do_not_wait_for_a_slow_backup(strategy: Any) -> None:
    model = two_server_model(strategy, 1.0, replicas=3, backups=1)
    model.fit(delayed([0, 0, 0, 1.0]), steps_per_epoch=100, verbose=0)
    slow = model.optimizer.contributions.workers[3]
    assert slow.accepted < 20, slow  # Each of its contributions takes about a second.
    assert model.optimizer.contributions.total.accepted == 300


def test_without_backups_updates_wait_for_everyone(strategy: Any) -> None:
    model = two_server_model(strategy, 1.0, replicas=4, backups=0)
    begin = time.monotonic()
    model.fit(delayed([0, 0, 0, 1.0]), steps_per_epoch=3, verbose=0)
    assert time.monotonic() - begin > 3.0  # A lower bound only: it cannot be quicker.
    assert [r.accepted for r in model.optimizer.contributions.workers] == [3, 3, 3, 3]


def test_metrics_are_exact_over_accepted_batches(shared: Shared, tmp_path: Path) -> None:
    model = shared.model
    model.optimizer.learning_rate = 0.0
    model.set_weights([np.ones([1, 1]), np.ones([1, 1])])
    data = ScriptedData(tmp_path)
    with Script(model, data, [(3, 1.0), (1, 3.0), (0, 1e6), (1, 5.0), (3, 7.0)]):
        history = model.fit(data, steps_per_epoch=2, verbose=0)
    assert history.history["loss"] == [pytest.approx(2 * (1 + 3 + 5 + 7) / 4)]


def lookup_model(strategy: Any, rows: int) -> Any:
    """Return a model of three words, with `rows` rows in its table, trained for a step."""
    with strategy.scope():
        stack = [keras.layers.Embedding(rows, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,), dtype="int64"), *stack])
        model.compile(tf_backup.wrap(keras.optimizers.Adam(), replicas=2, backups=0), "mse")
    words = np.arange(12).reshape([4, 3])
    model.fit(words, np.ones([4, 1], np.float32), batch_size=2, verbose=0)
    return model


def shapes_in_loop(engine: Any) -> set[tuple[int, ...]]:
    """Return the shapes of all tensors in the workers' loop and its calls; -1 is unknown."""
    (loop,) = engine._worker.loop._list_all_concrete_functions()
    graph = loop.graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    shapes = [shape for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    return {tuple(dimension.size for dimension in shape.dim) for shape in shapes}


def test_a_step_does_not_grow_with_a_table(strategy: Any) -> None:
    small, large = (lookup_model(strategy, rows).train_function.engine for rows in (1009, 10007))
    assert small._snapshot.layout.nbytes == large._snapshot.layout.nbytes
    shapes = shapes_in_loop(large)
    assert (2, 3, 4) in shapes  # Shape of a batch of word vectors, to check the search.
    assert not [shape for shape in shapes if 10007 in shape]
    # Lengths of flat buffers differ: a larger table leaves its server fewer of the other variables.
    assert {s for s in shapes if len(s) > 1} == {s for s in shapes_in_loop(small) if len(s) > 1}
