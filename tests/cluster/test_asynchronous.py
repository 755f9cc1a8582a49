"""Gradients that are older than the update: asynchronous SGD, and bounded staleness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.processes import wait_until
from tests.cluster.scripted import Script, ScriptedData, ledger, two_server_model, weights
from tests.extra import extra
from tf_backup.rules import protocol

RATE = 0.1
TWO_SERVERS = pytest.mark.parametrize("cluster", [(4, 2)], indirect=True)


class Hold(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the chief busy after the first update, until a condition of the ledger holds."""

    def __init__(self, until: Callable[[Any], Any]) -> None:
        super().__init__()
        self._until = until

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            wait_until(lambda: self._until(ledger(self.model)))


def queued(*workers: int) -> Callable[[Any], Any]:
    """Return a condition: exactly these workers have gradients in the queue."""

    def holds(books: Any) -> bool:
        inside = np.flatnonzero(books.status == protocol.DELIVERED).tolist()
        return bool(books.step == 1 and inside == sorted(workers))

    return holds


def fit(
    model: Any,
    data: Any,
    script: Script,
    updates: int,
    callbacks: list[keras.callbacks.Callback] | None = None,
) -> None:
    with script:
        model.fit(data, steps_per_epoch=updates, verbose=0, callbacks=callbacks)
    check_accounts(model.optimizer)


def check_accounts(optimizer: Any) -> None:
    accounts = optimizer.contributions
    for record in (*accounts.workers, accounts.total):
        counts = record.as_dict()
        ended = ("accepted", "late", "stale", "duplicate", "lost", "nonfinite")
        assert counts["computed"] == sum(counts[name] for name in ended)
        assert sum(record.staleness.values()) == record.accepted


def staleness(model: Any) -> list[Any]:
    return [record.staleness for record in model.optimizer.contributions.workers]


def contributions_on_servers(model: Any) -> dict[int, int]:
    """Return the number of contributions on each parameter server."""
    accumulator, sizes = model.train_function.engine._accumulator, {}
    for ps, specs in accumulator._specs.items():
        with tf.device(f"/job:ps/task:{ps}/device:CPU:0"):
            dtypes = [spec.dtype for spec in specs]
            name = accumulator._name.attributes()
            sizes[ps] = int(tf.raw_ops.MapSize(dtypes=dtypes, **name))
    return sizes


@pytest.mark.parametrize("cluster", [(3, 1)], indirect=True)
def test_old_gradients_are_applied_in_the_order_of_their_arrival(
    strategy: Any, tmp_path: Path
) -> None:
    model = two_server_model(
        strategy, RATE, 1, 2, None, loss=lambda y, y_pred: 0.5 * (y_pred - 1.0) ** 2
    )
    theta = np.reshape(weights(model), [2]).astype(np.float64)
    data = ScriptedData(tmp_path)
    # While the chief is busy after the first update, gradients at theta(0), theta(0) and
    # theta(1) arrive: the second, third and fourth updates use them.
    arrivals = [(0, 1.0), (1, 2.0), (2, 3.0), (0, 4.0)]
    read_at = [0, 0, 0, 1]
    recorded: list[Any] = []
    model.optimizer.listen(lambda _, updates: recorded.append(updates))
    fit(model, data, Script(model, data, arrivals), 4, [Hold(queued(0, 1, 2))])
    history = [theta]
    for (_, x), step in zip(arrivals, read_at, strict=True):
        gradient = (history[step].sum() * x - 1.0) * x
        history.append(history[-1] - RATE * gradient)
    np.testing.assert_allclose(np.reshape(weights(model), [2]), history[-1], rtol=1e-4)
    assert int(model.optimizer.iterations) == 4
    assert staleness(model) == [{0: 1, 2: 1}, {1: 1}, {2: 1}]
    total = model.optimizer.contributions.total
    assert (total.accepted, total.staleness_mean, total.staleness_max) == (4, 5 / 4, 2)
    # With one server, the timeline has all times of an update.
    updates = np.concatenate(recorded)
    assert updates["step"].tolist() == [0, 1, 2, 3]
    assert (updates["started"] > 0).all()
    times = [updates[name] for name in ("started", "taken", "applied", "released")]
    assert (np.diff(times, axis=0) >= 0).all()


@TWO_SERVERS
def test_two_gradients_an_update_also_from_a_queue(strategy: Any, tmp_path: Path) -> None:
    model = two_server_model(strategy, 1.0, 2, 2, None)
    before, data = weights(model), ScriptedData(tmp_path)
    arrivals = [(3, 1.0), (1, 3.0), (0, 10.0), (1, 30.0), (2, 200.0), (3, 400.0)]
    fit(model, data, Script(model, data, arrivals), 3, [Hold(queued(0, 1, 2, 3))])
    moves = [float(a[0, 0] - b[0, 0]) for a, b in zip(before, weights(model), strict=True)]
    assert moves == pytest.approx([2.0 + 20.0 + 300.0] * 2)
    assert staleness(model) == [{1: 1}, {0: 2}, {2: 1}, {0: 1, 1: 1}]


@TWO_SERVERS
def test_too_old_is_stale_and_is_thrown_away(strategy: Any, tmp_path: Path) -> None:
    model = two_server_model(strategy, 1.0, 1, 2, max_staleness=1)
    before, data = weights(model), ScriptedData(tmp_path)
    # Worker 2's gradient at theta(0) would be two updates old: the worker goes on at once.
    arrivals = [(0, 1.0), (1, 2.0), (2, 1e6), (2, 4.0)]
    fit(model, data, Script(model, data, arrivals, settled=4), 3)
    moves = [float(a[0, 0] - b[0, 0]) for a, b in zip(before, weights(model), strict=True)]
    assert moves == pytest.approx([7.0, 7.0])
    records = model.optimizer.contributions.workers
    assert [(r.accepted, r.late, r.stale) for r in records] == [(1, 0, 0), (1, 0, 0), (1, 0, 1)]
    assert staleness(model) == [{0: 1}, {1: 1}, {0: 1}]
    assert contributions_on_servers(model) == {0: 0, 1: 0}


@TWO_SERVERS
def test_a_busy_chief_finds_no_more_than_one_gradient_of_each_worker(
    strategy: Any, tmp_path: Path
) -> None:
    model = two_server_model(strategy, 1.0, 1, 2, max_staleness=1)
    before, data = weights(model), ScriptedData(tmp_path)
    seen: list[dict[int, int]] = []

    def both_are_out(books: Any) -> bool:
        # Worker 2's would be two updates old; worker 0's, at theta(1), has only one before it.
        if books.stale[2] == 1 and queued(0, 1)(books):
            seen.append(contributions_on_servers(model))
            return True
        return False

    arrivals = [(0, 1.0), (1, 2.0), (2, 1e6), (0, 4.0), (2, 8.0)]
    script = Script(model, data, arrivals, settled=1)
    fit(model, data, script, 4, [Hold(both_are_out)])
    assert seen == [{0: 3, 1: 3}]  # The refused one stays until its worker's next one.
    moves = [float(a[0, 0] - b[0, 0]) for a, b in zip(before, weights(model), strict=True)]
    assert moves == pytest.approx([15.0, 15.0])
    assert contributions_on_servers(model) == {0: 0, 1: 0}


@TWO_SERVERS
def test_rows_of_tables_get_old_gradients(strategy: Any, tmp_path: Path) -> None:
    with strategy.scope():
        layers = [keras.layers.Embedding(5, 1), keras.layers.Flatten()]
        model = keras.Sequential([keras.Input((1,), dtype="int64"), *layers])
        optimizer = tf_backup.wrap(keras.optimizers.SGD(RATE), 1, 2, max_staleness=None)
        model.compile(optimizer, loss=lambda y, y_pred: 0.5 * (y_pred - 1.0) ** 2)
    rows = weights(model)[0][:, 0].astype(np.float64)
    data = ScriptedData(tmp_path)

    def ids(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return data(context).map(lambda x, y: (tf.cast(x, tf.int64), y))

    # Rows are looked up when the ids arrive: after the first update, by both.
    arrivals = [(0, 2.0), (1, 2.0), (2, 2.0), (0, 3.0)]
    script = Script(model, data, arrivals, settled=1)
    fit(model, ids, script, 4, [Hold(queued(0, 1, 2))])
    first = rows[2] - RATE * (rows[2] - 1.0)
    rows[2] = first - 2 * RATE * (first - 1.0)
    rows[3] -= RATE * (rows[3] - 1.0)
    np.testing.assert_allclose(weights(model)[0][:, 0], rows, rtol=1e-5)
    assert staleness(model) == [{0: 1, 2: 1}, {1: 1}, {2: 1}]


def quick_and_slow(context: tf.distribute.InputContext) -> tf.data.Dataset:
    rng = np.random.default_rng(context.input_pipeline_id)
    batch = rng.normal(size=[8, 3]).astype(np.float32), rng.normal(size=[8, 1])
    data = tf.data.Dataset.from_tensors(batch).repeat()
    return tf_backup.delay(data, 0.1 if context.input_pipeline_id == 2 else 0.0)


def minimized(strategy: Any, workers: int, updates: int, stop: int) -> tuple[Any, Any]:
    """Return a model and its optimizer after `stop` asynchronous updates on some workers."""
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        optimizer = tf_backup.wrap(
            keras.optimizers.SGD(0.01, momentum=0.9), 1, workers - 1, max_staleness=None
        )

    def loss(batch: Any) -> Any:
        x, y = batch
        return keras.ops.mean((model(x, training=True) - keras.ops.cast(y, "float32")) ** 2)

    for update in tf_backup.minimize(loss, model, optimizer, quick_and_slow, updates):
        check_staleness_adds_up(optimizer)
        if update.step == stop:
            break
    check_accounts(optimizer)
    assert int(optimizer.iterations) == optimizer.contributions.total.accepted == stop
    return model, optimizer


def check_staleness_adds_up(optimizer: Any) -> None:
    for record in optimizer.contributions.workers:
        assert sum(record.staleness.values()) == record.accepted


@extra  # The test below uses `minimize`, too.
@TWO_SERVERS
@pytest.mark.parametrize("stop", [30, 17])
def test_minimize_is_asynchronous_too(strategy: Any, stop: int) -> None:
    _, optimizer = minimized(strategy, workers=3, updates=30, stop=stop)
    # How much each of them works is open: the first one to arrive starts.
    assert optimizer.contributions.total.late == 0


@TWO_SERVERS
def test_asynchronous_with_one_worker_is_the_plain_optimizer(strategy: Any) -> None:
    model, optimizer = minimized(strategy, workers=1, updates=20, stop=20)
    assert optimizer.contributions.total.staleness == {0: 20}
    keras.utils.set_random_seed(1)
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    plain.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    (x, y) = next(iter(quick_and_slow(tf.distribute.InputContext(1, 0))))
    for _ in range(20):
        plain.train_on_batch(x, y)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
