"""Keras' own fit, evaluate, predict and save on the strategy."""

from __future__ import annotations

import gc
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

import tf_backup
from tests.cluster.shared import Shared
from tests.extra import extra, with_extra
from tf_backup._tf import client_calls, graphs, serialized
from tf_backup.servers.board import Board

pytestmark = pytest.mark.parametrize("cluster", [(4, 2)], indirect=True)

X = np.random.default_rng(0).normal(size=[96, 6]).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm = keras.layers.BatchNormalization()
        self.dense = keras.layers.Dense(2, activation="softmax")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.dense(self.norm(x, training=training))


def functional() -> Any:
    inputs = keras.Input((6,))
    hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(8, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu", kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def compiled(
    strategy: Any, build: Any = functional, replicas: int = 3, backups: int = 1, **options: Any
) -> Any:
    with strategy.scope():
        model = build()
        optimizer = tf_backup.wrap(keras.optimizers.SGD(0.1, momentum=0.9), replicas, backups)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


@pytest.fixture(scope="module")
def made(cluster: tf_backup.LocalCluster) -> Shared:
    return Shared(cluster.strategy(), compiled(cluster.strategy()))


@pytest.fixture
def shared(made: Shared) -> Shared:
    """The functional model, with N = 3 and b = 1."""
    made.set_back()
    return made


@pytest.fixture(scope="module")
def all_four(cluster: tf_backup.LocalCluster) -> Any:
    """The functional model, with N = 4 and b = 0."""
    return compiled(cluster.strategy(), replicas=4, backups=0)


def updates(model: Any) -> int:
    total = model.optimizer.contributions.total
    ended = total.accepted + total.late + total.stale + total.duplicate + total.lost
    assert total.computed == ended + total.nonfinite
    assert total.accepted == 3 * int(model.optimizer.iterations)
    return int(model.optimizer.iterations)


@pytest.mark.parametrize("build", with_extra([sequential, Subclassed], Subclassed))
def test_models_that_are_not_built_train_from_arrays(strategy: Any, build: Any) -> None:
    model = compiled(strategy, build)
    losses = model.fit(X, Y, batch_size=8, epochs=8, verbose=0).history["loss"]
    # The minimum: with batch norm over 8 samples, one epoch in some hundred is nearly as bad as
    # the first, on one device, too.
    assert min(losses) < 0.8 * losses[0]
    assert updates(model) == 8 * 4  # ceil(12 batches / 3) updates are one pass.
    loss, accuracy = model.evaluate(X, Y, batch_size=10, verbose=0)
    probabilities = model.predict(X, batch_size=7, verbose=0)
    assert accuracy == pytest.approx(np.mean(probabilities.argmax(-1) == Y))
    labelled = probabilities[np.arange(len(Y)), Y]
    assert loss == pytest.approx(-np.mean(np.log(labelled)) + sum(map(float, model.losses)), 1e-4)


def test_twice_in_a_row_in_and_out_of_scope_with_validation(strategy: Any, shared: Shared) -> None:
    model = shared.model
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(96).batch(8)
    validation = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    with strategy.scope():
        first = model.fit(dataset, steps_per_epoch=3, verbose=0, validation_data=validation)
    again = model.fit(dataset, steps_per_epoch=1, epochs=2, verbose=0, validation_data=(X, Y))
    assert set(first.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(again.history["val_loss"]) == 2
    assert shared.updates == 5


def test_callbacks_see_one_step_per_update(shared: Shared) -> None:
    seen: list[Any] = []

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append((batch, int(self.model.optimizer.iterations), sorted(logs)))

    model = shared.model
    model.fit(X, Y, batch_size=8, steps_per_epoch=3, verbose=0, callbacks=[Watch()])
    assert seen == [(i, i + 1, ["accuracy", "loss"]) for i in range(3)]


def test_the_servers_keep_nothing_of_an_update_or_a_heartbeat(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server keeps 1 KiB for each tensor that Python asks it for; see `client_calls.brought`."""
    numpy, asked = ops._EagerTensorBase._numpy, []

    def counting(tensor: Any) -> Any:
        if "/job:ps" in tensor.device:
            asked.append(threading.current_thread().name)
        return numpy(tensor)

    monkeypatch.setattr(ops._EagerTensorBase, "_numpy", counting)
    counts = []
    for steps in (3, 30):
        asked.clear()
        shared.model.fit(X, Y, batch_size=8, steps_per_epoch=steps, verbose=0)
        assert set(asked) <= {threading.current_thread().name}
        counts.append(len(asked))
    assert 0 < counts[1] <= counts[0] < 10  # The first fit of a model may ask for more.

    asked.clear()
    board, nobody = Board(4), -5
    assert not board.beat(0, nobody)
    assert board.exists and board.notice()
    function = client_calls.function(lambda x: graphs.on_server(1, tf.negative, x))
    traced = function.get_concrete_function(tf.TensorSpec([], tf.int64))
    _, loaded = serialized.load(*serialized.dump("negative", traced, []))
    assert int(loaded(tf.constant(3, tf.int64))[0]) == -3
    assert not asked


def test_a_callback_can_stop_training(shared: Shared) -> None:
    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    model = shared.model
    model.fit(
        X,
        Y,
        batch_size=8,
        epochs=3,
        steps_per_epoch=10,
        verbose=0,
        callbacks=[Stop()],
        validation_data=(X, Y),
    )
    assert shared.updates == 2
    model.fit(X, Y, batch_size=8, steps_per_epoch=2, verbose=0)
    assert shared.updates == 4


def test_ctrl_c_ends_fit_and_the_model_goes_on(shared: Shared) -> None:
    class Interrupt(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise KeyboardInterrupt

    model = shared.model
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, batch_size=8, steps_per_epoch=9, verbose=0, callbacks=[Interrupt()])
    assert shared.updates == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("tf_backup")]
    model.fit(X, Y, batch_size=8, steps_per_epoch=2, verbose=0)
    assert shared.updates == 4


def test_data_that_ends_early_ends_the_epoch(all_four: Any) -> None:
    def two_batches_each(context: tf.distribute.InputContext) -> tf.data.Dataset:
        shard = tf.data.Dataset.from_tensor_slices((X, Y)).shard(4, context.input_pipeline_id)
        return shard.batch(8).take(2)

    before = int(all_four.optimizer.iterations)
    with pytest.warns(UserWarning, match="ran out of data"):
        all_four.fit(two_batches_each, steps_per_epoch=50, verbose=0)
    assert int(all_four.optimizer.iterations) - before == 2


def test_each_epoch_reads_the_functions_data_once(all_four: Any) -> None:
    def shard(context: tf.distribute.InputContext) -> tf.data.Dataset:
        assert context.num_input_pipelines == 4
        data = tf.data.Dataset.from_tensor_slices((X, Y))
        return data.shard(4, context.input_pipeline_id).batch(8)

    before = int(all_four.optimizer.iterations)
    all_four.fit(shard, epochs=2, verbose=0)
    assert int(all_four.optimizer.iterations) - before == 2 * 3


@pytest.fixture(scope="module")
def adding(cluster: tf_backup.LocalCluster) -> Any:
    """A model with one weight, which each update lowers by the mean of what four workers read."""
    with cluster.strategy().scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        optimizer = tf_backup.wrap(keras.optimizers.SGD(1.0), replicas=4)
        model.compile(optimizer, loss=lambda y, y_pred: y_pred)
    return model


def test_workers_read_different_batches_of_a_data_set(adding: Any) -> None:
    model = adding
    model.set_weights([np.zeros([1, 1])])
    before = model.get_weights()[0]
    values = np.array([[1.0], [10.0], [100.0], [1000.0]], np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((values, values)).batch(1)
    model.fit(dataset, epochs=1, verbose=0)
    assert (before - model.get_weights()[0]).item() == pytest.approx(1111.0 / 4)


def shuffled_data_set(values: Any) -> dict[str, Any]:
    return {"x": tf.data.Dataset.from_tensor_slices((values, values)).shuffle(40).batch(2)}


def shuffled_of_unknown_length(values: Any) -> dict[str, Any]:
    whole = tf.data.Dataset.from_tensor_slices((values, values)).filter(lambda x, y: True)
    return {"x": whole.shuffle(40).batch(2)}


def shuffled_with_a_seed(values: Any) -> dict[str, Any]:
    whole = tf.data.Dataset.from_tensor_slices((values, values)).filter(lambda x, y: True)
    return {"x": whole.shuffle(40, seed=3).batch(2)}


def shuffled_inside_an_interleave(values: Any) -> dict[str, Any]:
    def shuffled(part: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices((part, part)).shuffle(40)

    parts = tf.data.Dataset.from_tensor_slices(np.reshape(values, [2, 8, 1]))
    batches = parts.interleave(shuffled).batch(2)
    return {"x": batches.apply(tf.data.experimental.assert_cardinality(8))}


def shuffled_arrays(values: Any) -> dict[str, Any]:
    return {"x": values, "y": values, "batch_size": 2}


def shuffled_batches(values: Any) -> dict[str, Any]:
    return {**shuffled_arrays(values), "shuffle": "batch"}


# Shuffled arrays of every kind: see test_arrays.
SHUFFLED = [
    shuffled_data_set,
    shuffled_of_unknown_length,
    shuffled_with_a_seed,
    shuffled_inside_an_interleave,
    shuffled_batches,
]


@pytest.mark.parametrize("shuffled", SHUFFLED)
def test_no_two_workers_read_the_same_of_what_is_shuffled(adding: Any, shuffled: Any) -> None:
    """With N = 4, each pass reads everything exactly once, in a new order."""
    model = adding
    values = 2.0 ** np.arange(16)[:, None].astype(np.float32)
    seen: list[float] = []  # For each of 3 x 2 updates, the sum of 8 of the values.
    weights = [model.get_weights()[0].item()]

    def note(batch: int, logs: Any) -> None:
        weights.append(model.get_weights()[0].item())
        seen.append(round(8 * (weights[-2] - weights[-1])))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    model.set_weights([np.zeros([1, 1])])
    weights[-1] = 0.0
    model.fit(**shuffled(values), epochs=3, verbose=0, callbacks=[callback])
    assert [one + other for one, other in zip(seen[::2], seen[1::2], strict=True)] == [65535] * 3
    # Inside an interleave, the order is fixed for a fit; "batch" shuffles within each batch.
    if shuffled not in (shuffled_inside_an_interleave, shuffled_batches):
        assert len(set(seen[::2])) > 1


def test_an_old_pipeline_that_does_not_end_holds_nobody_up(
    strategy: Any, shared: Shared, tmp_path: Path
) -> None:
    """It reads a pipe that nobody writes to; its thread ends when somebody does."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)

    def blocking(context: tf.distribute.InputContext) -> tf.data.Dataset:
        batches = tf.data.Dataset.from_tensors((X[:8], Y[:8])).repeat(4)  # Three, one read ahead.
        return batches.concatenate(
            tf.data.TextLineDataset(pipe).map(
                lambda line: (tf.zeros([8, 6]), tf.zeros([8], Y.dtype))
            )
        )

    opened = threading.Event()

    def open_it() -> None:
        opened.set()
        os.close(os.open(pipe, os.O_RDWR))  # Releases all readers that wait.

    old = compiled(strategy, replicas=4, backups=0)
    late = threading.Timer(60.0, open_it)
    late.start()
    try:
        old.fit(blocking, steps_per_epoch=3, verbose=0)
        del old
        gc.collect()
        shared.model.fit(X, Y, batch_size=8, epochs=1, verbose=0)
        assert not opened.is_set(), "Training waited until somebody wrote to the pipe."
    finally:
        late.cancel()
        open_it()


def test_batch_norm_moves_by_the_mean_of_the_workers(strategy: Any) -> None:
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(momentum=0.5)])
        optimizer = tf_backup.wrap(keras.optimizers.SGD(0.0), replicas=2)
        model.compile(optimizer, "mse")

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        x = tf.fill([4, 1], 2.0 if context.input_pipeline_id == 0 else 6.0)
        return tf.data.Dataset.from_tensors((x, x))

    model.fit(batches, steps_per_epoch=1, verbose=0)
    assert model.layers[0].moving_mean.numpy() == pytest.approx([0.5 * (2.0 + 6.0) / 2])


@extra  # `test_models.py` has a model of mixed precision.
def test_mixed_precision_trains(strategy: Any) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = compiled(strategy)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    history = model.fit(X, Y, batch_size=8, epochs=10, verbose=0)
    assert min(history.history["loss"]) < history.history["loss"][0]
    wrapped = model.optimizer.inner_optimizer
    assert wrapped.contributions.total.accepted == 3 * 10 * 4


def test_a_server_without_parameters_is_waited_for_too(strategy: Any) -> None:
    """Regression: its metrics of step t + 1 came before step t was cleared there, and fit hung."""

    def make() -> Any:
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, use_bias=False)])

    # Servers get small variables in turn: one of two kernels is not on the metrics' server.
    models = [compiled(strategy, make) for _ in range(2)]
    (model,) = [each for each in models if "task:1" in each.weights[0].value.device]
    model.fit(X, Y, batch_size=8, steps_per_epoch=200, verbose=0)
    assert updates(model) == 200
    engine = model.train_function.engine
    assert engine._snapshot.layout.servers != engine._worker._contribution.servers


def test_integer_state_beside_parameters(strategy: Any) -> None:
    """Regression: buffers of two dtypes on one server could not be loop variables."""

    class Counting(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.calls = [
                self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False)
                for _ in range(2)
            ]

        def call(self, x: Any) -> Any:
            for each in self.calls:
                each.assign(each + 2)
            return x

    model = compiled(
        strategy,
        lambda: keras.Sequential([keras.Input((6,)), Counting(), keras.layers.Dense(2)]),
    )
    model.fit(X, Y, batch_size=8, steps_per_epoch=3, verbose=0)
    assert [int(each) for each in model.layers[0].calls] == [6, 6]


@extra  # test_callbacks has steps_per_execution, too.
def test_steps_per_execution_makes_no_update_too_many(strategy: Any) -> None:
    model = compiled(strategy, steps_per_execution=4)
    model.fit(X, Y, batch_size=8, epochs=2, steps_per_epoch=6, verbose=0)
    assert updates(model) == 12


def raises_for_one(context: tf.distribute.InputContext) -> tf.data.Dataset:
    if context.input_pipeline_id == 2:
        raise KeyError(7)
    return tf.data.Dataset.from_tensors((X, Y))


def refused(strategy: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield part of the error message, a model, and arguments of fit that it refuses."""
    model = compiled(strategy)
    yield "steps_per_epoch is 0", model, {"x": X, "y": Y, "steps_per_epoch": 0}
    yield "must return a tf.data.Dataset", model, {"x": lambda context: 3, "steps_per_epoch": 1}
    yield "dataset_fn raised KeyError for worker 2 of 4: 7", model, {"x": raises_for_one}
    shape = r"expected shape=\(None, 6\), found shape=\(96, 5\)"
    yield shape, model, {"x": tf.data.Dataset.from_tensors((X[:, :5], Y))}
    one = tf.data.Dataset.from_tensors((X, Y))
    weights = {"x": lambda context: one, "class_weight": {0: 1.0, 1: 2.0}}
    yield "class_weight cannot be given", model, weights
    yield "repeats for ever", model, {"x": one.repeat()}
    yield "run_eagerly", compiled(strategy, run_eagerly=True), {"x": X, "y": Y}


class Gan(keras.Model):  # type: ignore[misc]
    def __init__(self, discriminator: Any) -> None:
        super().__init__()
        self.discriminator = discriminator

    def compile(self, d_optimizer: Any) -> None:
        super().compile()
        self.d_optimizer = d_optimizer


def with_lookup() -> list[Any]:
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"])
    return [lookup, keras.layers.Embedding(3, 2), keras.layers.Flatten(), keras.layers.Dense(1)]


def test_bad_input_is_refused_and_the_cluster_stays_usable(strategy: Any, shared: Shared) -> None:
    for message, model, arguments in refused(strategy):
        # A RuntimeError is Keras 3.12's, around an error of a layer.
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            model.fit(verbose=0, **arguments)
    with strategy.scope():
        plain = functional()
        plain.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"tf_backup\.wrap"):
        plain.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="train_on_batch cannot work"):
        compiled(strategy).train_on_batch(X, Y)
    with strategy.scope():
        model, optimizer = functional(), tf_backup.wrap(keras.optimizers.SGD(), 1)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="'loss' was created outside the strategy's scope"):
        model.fit(X, Y, verbose=0)
    with strategy.scope():
        gan = Gan(keras.layers.Dense(1))
        gan.compile(tf_backup.wrap("adam", replicas=np.int64(1)))
        with pytest.raises(RuntimeError, match="cannot apply gradients by hand"):
            gan.d_optimizer.apply_gradients([(tf.zeros([2]), keras.Variable([1.0, 2.0]))])
        lookup = keras.Sequential([keras.Input((1,), dtype="string"), *with_lookup()])
        lookup.compile(tf_backup.wrap("adam", replicas=1), "mse")
    with pytest.raises(ValueError, match=r"own optimizers \(d_optimizer\) are wrapped, but fit"):
        gan.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="a lookup table") as error:
        lookup.fit(tf.constant([["a"], ["b"]] * 8), np.ones([16, 1]), batch_size=4, verbose=0)
    assert len(str(error.value)) < 700
    with pytest.raises(TypeError, match=r"validation_steps must be an int, not 2\.5"):
        compiled(strategy).fit(X, Y, validation_data=(X, Y), validation_steps=2.5, verbose=0)
    outside = keras.optimizers.SGD()
    with strategy.scope(), pytest.raises(ValueError, match="outside the strategy's scope"):
        tf_backup.wrap(outside, replicas=1)
    with strategy.scope(), pytest.raises(ValueError, match="more than the 4 worker"):
        tf_backup.wrap(keras.optimizers.SGD(), replicas=4, backups=1)
    shared.model.fit(X, Y, batch_size=8, steps_per_epoch=1, verbose=0)
    assert shared.updates == 1


def without_class(strategy: Any) -> Any:
    return compiled(strategy), tf.data.Dataset.from_tensors((X, Y + 7))


def without_row(strategy: Any) -> Any:
    def build() -> Any:
        layers = [keras.layers.Embedding(3, 2), keras.layers.Flatten(), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((1,), dtype="int64"), *layers])

    return compiled(strategy, build), tf.data.Dataset.from_tensors((Y[:, None] + 12, Y))


def with_a_bad_element(strategy: Any) -> Any:
    def read(index: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(index, 0, "no such file")]):
            return tf.identity(X), tf.identity(Y)

    return compiled(strategy), tf.data.Dataset.range(8, output_type=tf.int32).map(read)


class Logarithm(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return tf.math.log(-tf.abs(x))


def with_a_bad_number(strategy: Any) -> Any:
    def build() -> Any:
        return keras.Sequential([keras.Input((6,)), Logarithm(), keras.layers.Dense(2)])

    return compiled(strategy, build), tf.data.Dataset.from_tensors((X, Y))


class Asserts(keras.layers.Layer):  # type: ignore[misc]
    """Nothing uses what the assertion returns."""

    def call(self, x: Any) -> Any:
        tf.debugging.assert_greater(x, 1e6, "too small")
        return x


def with_an_assertion(strategy: Any) -> Any:
    def build() -> Any:
        return keras.Sequential([keras.Input((6,)), Asserts(), keras.layers.Dense(2)])

    return compiled(strategy, build), tf.data.Dataset.from_tensors((X, Y))


FAILURES = [
    (with_an_assertion, "too small"),
    (without_class, "Received a label value of 8 which is outside the valid range"),
    (without_row, "embeddings has 3 rows, and none for these ids:] [1"),
    (with_a_bad_element, "no such file"),
    (with_a_bad_number, 'Infinity or NaN in output 0 of graph op "Log"'),
]


@pytest.mark.parametrize(
    ("make", "cause"), with_extra(FAILURES, FAILURES[0], FAILURES[1], FAILURES[4])
)
def test_what_fails_in_a_worker_is_said_with_its_cause(
    strategy: Any, capfd: pytest.CaptureFixture[str], make: Any, cause: str
) -> None:
    if make is with_a_bad_number:
        tf.debugging.enable_check_numerics()
    try:
        model, dataset = make(strategy)
        if make is not without_class:  # Keras' own metric refuses it, with another message.
            dataset = dataset.repeat(8)
        calls = [model.fit, model.evaluate] if make is without_class else [model.fit]
        for call in calls:
            with pytest.raises(tf_backup.WorkerFailed) as error:
                call(dataset, verbose=0)
            assert re.match(r"Worker \d raised InvalidArgumentError: ", str(error.value))
            assert cause in str(error.value)
            assert len(str(error.value)) < 400
    finally:
        tf.debugging.disable_check_numerics()
    lines = capfd.readouterr().err.splitlines()
    lines = [line for line in lines if "Ignoring error status when releasing" not in line]
    assert len(lines) < 20  # Not a thousand lines from TensorFlow.


def test_a_tensor_of_the_script_is_a_constant_in_the_workers(strategy: Any) -> None:
    weights = tf.constant([2.0, 3.0])

    class Scaled(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * weights

    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((2,)), Scaled(), keras.layers.Dense(1, use_bias=False)]
        )
        model.layers[1].set_weights([np.ones([2, 1])])

        def loss(y: Any, p: Any) -> Any:
            return tf.reduce_mean(p) * weights[0]

        model.compile(tf_backup.wrap(keras.optimizers.SGD(1.0), replicas=1), loss)
    ones = np.ones([1, 2])
    found = model.fit(ones, ones[:, :1], epochs=1, verbose=0).history
    assert found["loss"] == [10.0]
    np.testing.assert_allclose(model.get_weights()[0], [[1.0 - 2.0 * 2.0], [1.0 - 2.0 * 3.0]])
    assert model.evaluate(ones, ones[:, :1], verbose=0) == pytest.approx(2.0 * (-6.0 - 15.0))
