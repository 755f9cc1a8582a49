"""Data that only the chief's process can read: it makes batches, and workers take the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.cluster.processes import wait_until
from tests.cluster.shared import Shared
from tests.extra import with_extra

pytestmark = pytest.mark.parametrize("cluster", [(3, 1)], indirect=True)

SIZE, COUNT = 4, 6
X = np.random.default_rng(7).normal(size=[SIZE * COUNT, 3]).astype(np.float32)
Y = (X @ [[1.0], [-2.0], [0.5]]).astype(np.float32)
W = np.linspace(0.5, 1.5, SIZE * COUNT).astype(np.float32)


def batch(index: int, size: int = SIZE) -> Any:
    part = slice(index * size, (index + 1) * size)
    return X[part], Y[part], W[part]


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Records its calls."""

    def __init__(self, size: int = SIZE, **options: Any) -> None:
        super().__init__(**options)
        self.size = size
        self.calls: list[Any] = []

    def __len__(self) -> int:
        return len(X) // self.size

    def __getitem__(self, index: int) -> Any:
        self.calls.append(index)
        return batch(index, self.size)

    def on_epoch_begin(self) -> None:
        self.calls.append("begin")

    def on_epoch_end(self) -> None:
        self.calls.append("end")


class Sparse(Batches):
    def __getitem__(self, index: int) -> Any:
        x, *others = super().__getitem__(index)
        return tf.sparse.from_dense(x), *others


def generated(size: int = SIZE, passes: int = 2) -> Iterator[Any]:
    for index in list(range(len(X) // size)) * passes:
        yield batch(index, size)


def from_generator(size: int = SIZE) -> tf.data.Dataset:
    shapes = [(None, 3), (None, 1), (None,)]
    spec = tuple(tf.TensorSpec(shape, tf.float32) for shape in shapes)
    return tf.data.Dataset.from_generator(lambda: generated(size, 1), output_signature=spec)


def with_py_function(size: int = SIZE) -> tf.data.Dataset:
    def read(index: Any) -> Any:
        parts = tf.py_function(lambda i: batch(int(i), size), [index], 3 * [tf.float32])
        for part, shape in zip(parts, [(None, 3), (None, 1), (None,)], strict=True):
            part.set_shape(shape)
        return tuple(parts)

    return tf.data.Dataset.range(len(X) // size).map(read)


KINDS: dict[str, tuple[Callable[..., Any], int | None]] = {
    "PyDataset": (Batches, None),
    "PyDataset in threads": (lambda size=SIZE: Batches(size, workers=2, max_queue_size=3), None),
    "sparse PyDataset": (Sparse, None),
    "generator": (generated, COUNT // 2),
    "from_generator": (from_generator, None),
    "py_function": (with_py_function, None),
}


def network() -> Any:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    )


def on_strategy(strategy: Any, replicas: int = 2, backups: int = 0) -> Any:
    with strategy.scope():
        model = network()
        optimizer = tf_backup.wrap(keras.optimizers.SGD(0.1), replicas, backups)
        model.compile(optimizer, "mse", weighted_metrics=["mae"])
    return model


def on_one_device() -> Any:
    model = network()
    model.compile(keras.optimizers.SGD(0.1), "mse", weighted_metrics=["mae"])
    return model


def updates(model: Any) -> int:
    total = model.optimizer.contributions.total
    ended = total.accepted + total.late + total.stale + total.duplicate + total.lost
    assert total.computed == ended + total.nonfinite
    assert total.accepted == model.optimizer.replicas * int(model.optimizer.iterations)
    return int(model.optimizer.iterations)


@pytest.fixture(scope="module")
def made(cluster: tf_backup.LocalCluster) -> Shared:
    return Shared(cluster.strategy(), on_strategy(cluster.strategy()))


@pytest.fixture
def shared(made: Shared) -> Shared:
    """The model with N = 2 and b = 0, as it was in the beginning."""
    made.set_back()
    return made


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # If the length is unknown.
@pytest.mark.parametrize("kind", with_extra(KINDS, "sparse PyDataset", "from_generator"))
def test_it_trains_to_the_numbers_of_one_device(shared: Shared, kind: str) -> None:
    make, steps = KINDS[kind]
    twin = on_one_device()
    # N consecutive batches here have the samples of one batch on one device.
    options = {"epochs": 2, "steps_per_epoch": steps, "verbose": 0, "shuffle": False}
    expected = twin.fit(make(size=2 * SIZE), **options).history
    model = shared.model
    # A generator has little left for the second epoch.
    validation = None if kind == "generator" else make()
    found = model.fit(make(), **options, validation_data=validation).history
    assert shared.updates == 2 * COUNT // 2
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)
    evaluated = twin.evaluate(X, Y, sample_weight=W, verbose=0, return_dict=True)
    assert model.evaluate(make(), verbose=0, return_dict=True) == pytest.approx(evaluated, 1e-4)
    if validation is not None:
        assert found["val_loss"][-1] == pytest.approx(evaluated["loss"], 1e-4)
        assert found["val_mae"][-1] == pytest.approx(evaluated["mae"], 1e-4)


def test_a_backup_worker_takes_batches_of_its_own(
    strategy: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tf_backup.actors.python_data._warned", set())
    model, data = on_strategy(strategy, replicas=2, backups=1), Batches()
    losses = model.fit(data, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert updates(model) == 6 * COUNT // 2
    passes = " ".join(map(str, data.calls)).split("begin")[1:]  # Before: two for the spec.
    for each in passes[:-1]:  # Keras shuffles: every pass has all batches.
        *indices, end = each.split()
        assert (sorted(indices), end) == ([*"012345"], "end")
    # Made batches are computed, on the server, in a worker or read ahead.
    made = sum(isinstance(call, int) for call in data.calls) - 2
    computed = model.optimizer.contributions.total.computed
    assert computed <= made <= computed + 3 + 3 + 2 * COUNT
    model.fit(data, steps_per_epoch=1, verbose=0)
    model.fit(X, Y, sample_weight=W, batch_size=SIZE, steps_per_epoch=1, verbose=0)
    # The warning that one process feeds all comes once, and for such data only.
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "The workers cannot read a PyDataset"
    ]


class Wrong(Exception):
    """Error that a user's code raises."""


@pytest.mark.parametrize("kind", ["generator", "PyDataset"])
def test_what_the_users_code_raises_is_raised_when_what_it_made_is_used(
    shared: Shared, kind: str
) -> None:
    class Broken(Batches):
        def __getitem__(self, index: int) -> Any:
            if index == 4:
                raise Wrong("at the fifth")
            return super().__getitem__(index)

    def generator() -> Iterator[Any]:
        broken = Broken()
        for index in range(COUNT):
            yield broken[index]

    model = shared.model
    with pytest.raises(Wrong, match=r"^at the fifth$"):
        model.fit(Broken() if kind == "PyDataset" else generator(), shuffle=False, verbose=0)
    assert shared.updates == 2
    model.fit(Batches(), verbose=0)
    assert shared.updates == 2 + COUNT // 2


def test_a_callback_ends_training_while_the_users_code_waits(shared: Shared) -> None:
    free = threading.Event()

    def generator() -> Iterator[Any]:
        yield from generated(passes=1)
        free.wait()

    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == COUNT // 2 - 1

    model = shared.model
    try:
        model.fit(generator(), steps_per_epoch=100, verbose=0, callbacks=[Stop()])
        assert shared.updates == COUNT // 2
        model.fit(X, Y, sample_weight=W, batch_size=SIZE, verbose=0)  # No worker waits any more.
        assert shared.updates == COUNT
    finally:
        free.set()
    threads = threading.enumerate
    wait_until(lambda: not any(t.name == "tf_backup-batches" for t in threads()), timeout_s=10)


def test_data_that_end_too_early_end_the_epoch_with_keras_warning(shared: Shared) -> None:
    model = shared.model
    with pytest.warns(UserWarning, match="ran out of data before steps_per_epoch"):
        model.fit(generated(passes=1), steps_per_epoch=COUNT, shuffle=False, verbose=0)
    assert shared.updates == COUNT // 2


def test_a_pydataset_without_an_end_needs_steps_per_epoch(shared: Shared) -> None:
    class Endless(Batches):
        @property
        def num_batches(self) -> None:
            return None

        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index % COUNT)

    model = shared.model
    with pytest.raises(ValueError, match="say how long to read with steps_per_epoch"):
        model.fit(Endless(), shuffle=False, verbose=0)
    model.fit(Endless(), shuffle=False, verbose=0, epochs=2, steps_per_epoch=4)
    assert shared.updates == 8


def test_a_worker_that_dies_takes_no_more_than_its_batch_along(
    strategy: Any, cluster: tf_backup.LocalCluster
) -> None:
    made: list[int] = []
    killed = threading.Event()

    def generator() -> Iterator[Any]:
        for index in range(10**9):
            made.append(index)
            yield batch(index % COUNT)

    class Kill(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                cluster.kill_task("worker", 0)
                killed.set()

    model = on_strategy(strategy, replicas=2, backups=1)
    model.fit(generator(), steps_per_epoch=30, shuffle=False, verbose=0, callbacks=[Kill()])
    assert killed.is_set()
    assert updates(model) == 30
    computed = model.optimizer.contributions.total.computed
    # Three are on the server, one is in each worker or was lost with it, some are read ahead.
    assert computed <= len(made) <= computed + 3 + 4 + 10
    cluster.start_task("worker", 0)
    model.fit(Batches(), verbose=0)
    assert updates(model) == 30 + COUNT // 2
