"""Transparency: with b = 0, the result of the plain optimizer on the mean of N gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.extra import extra, with_extra

REPLICAS = 2  # Another worker does nothing: the clusters are those of other tests.
TWO_SERVERS = (3, 2)
ONE_SERVER = (3, 1)

UPDATES = 5
BATCH = 4

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, epsilon=1.0),
    "adam_weight_decay": lambda: keras.optimizers.Adam(0.01, weight_decay=0.1),
    "adagrad_schedule": lambda: keras.optimizers.Adagrad(
        keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.5)
    ),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "ema_overwrite": lambda: keras.optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "global_clipnorm": lambda: keras.optimizers.Adam(0.1, global_clipnorm=0.1),
    "clipnorm": lambda: keras.optimizers.SGD(0.5, clipnorm=0.1),
    "gradient_accumulation": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), dynamic_growth_steps=2
    ),
}


def dense_model() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, activation="tanh", kernel_regularizer="l2"),
            keras.layers.Dense(2),
        ]
    )


def table_model(rows: int = 9) -> Any:
    """Return a dense model that also looks rows up: some twice in a batch, some by two workers."""
    keras.utils.set_random_seed(1)
    ids = keras.layers.Lambda(lambda x: keras.ops.cast(keras.ops.clip(2 * x + 4, 0, 8), "int32"))
    return keras.Sequential(
        [
            keras.Input((6,)),
            ids,
            keras.layers.Embedding(rows, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="tanh", kernel_regularizer="l2"),
            keras.layers.Dense(2),
        ]
    )


def slow_table_model() -> Any:
    """Return a model whose table is updated slowly: its rows must not be read too early."""
    return table_model(rows=1_000_000)


MODELS = {"dense": dense_model, "table": table_model, "slow table": slow_table_model}
SPARSE = ("momentum", "adagrad_schedule", "global_clipnorm", "loss_scale")
# With a table, the layers of the dense model are trained, too.
CASES = [(name, "table" if name in SPARSE else "dense") for name in OPTIMIZERS]
CASES.append(("adam_weight_decay", "slow table"))
# With one server, an update is one function for any optimizer; with several, it is cut apart.
OF_ONE_SERVER = [
    ("momentum", "dense"),
    ("gradient_accumulation", "dense"),
    ("loss_scale", "table"),
    ("adam_weight_decay", "slow table"),
]
ALL = [
    *((ONE_SERVER, *case) for case in OF_ONE_SERVER),
    *((TWO_SERVERS, *case) for case in CASES),
]
SIMILAR = [
    (ONE_SERVER, "gradient_accumulation", "dense"),
    (ONE_SERVER, "adam_weight_decay", "slow table"),
    (TWO_SERVERS, "rmsprop", "dense"),
    (TWO_SERVERS, "loss_scale", "table"),
    (TWO_SERVERS, "ema", "dense"),
    (TWO_SERVERS, "clipnorm", "dense"),
    (TWO_SERVERS, "adagrad_schedule", "table"),
    (TWO_SERVERS, "ema_overwrite", "dense"),
    (TWO_SERVERS, "adam_weight_decay", "dense"),
]


def batches(worker: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the batches of one worker: [updates, batch, 6] and [updates, batch, 2]."""
    rng = np.random.default_rng(worker)
    x = rng.normal(size=[UPDATES, BATCH, 6]).astype(np.float32)
    return x, rng.normal(size=[UPDATES, BATCH, 2]).astype(np.float32)


def dataset_fn(context: tf.distribute.InputContext) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(batches(context.input_pipeline_id))


def expected(new_model: Callable[[], Any], make_optimizer: Callable[[], Any]) -> Any:
    """Train on one device with the mean of the N gradients; return the model."""
    model, optimizer = new_model(), make_optimizer()
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    for update in range(UPDATES):
        gradients = []
        for worker in range(REPLICAS):
            x, y = (part[update] for part in batches(worker))
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
                loss = optimizer.scale_loss(loss)
            gradients.append(tape.gradient(loss, model.trainable_variables))
        means = [
            tf.add_n([tf.convert_to_tensor(gradient) for gradient in each]) / REPLICAS
            for each in zip(*gradients, strict=True)
        ]
        optimizer.apply(means, model.trainable_variables)
    optimizer.finalize_variable_values(model.trainable_variables)
    return model


@pytest.mark.parametrize(
    ("cluster", "name", "kind"), with_extra(ALL, *SIMILAR), indirect=["cluster"]
)
def test_equals_the_plain_optimizer_on_the_mean(strategy: Any, name: str, kind: str) -> None:
    with strategy.scope():
        model = MODELS[kind]()
        model.compile(tf_backup.wrap(OPTIMIZERS[name](), replicas=REPLICAS), "mse")
    model.fit(dataset_fn, steps_per_epoch=UPDATES, verbose=0)
    plain = expected(MODELS[kind], OPTIMIZERS[name])
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)
    ours = [v.numpy() for v in model.optimizer.variables]
    theirs = [v.numpy() for v in plain.optimizer.variables]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("cluster", [TWO_SERVERS], indirect=True)
def test_slots_lie_beside_their_variables(strategy: Any) -> None:
    with strategy.scope():
        model = dense_model()
        inner = keras.optimizers.Adam(0.1, use_ema=True)
        model.compile(tf_backup.wrap(inner, replicas=REPLICAS), "mse")
        model.optimizer.build(model.trainable_variables)
    for index, variable in enumerate(model.trainable_variables):
        home = variable.value.device
        for slots in (inner._momentums, inner._velocities, inner._model_variables_moving_average):
            assert slots[index].value.device == home


def sizes_here(nodes: Any, library: dict[str, Any]) -> list[int]:
    """Return the sizes of tensors that are on no server, including those in called functions."""
    sizes = []
    for node in nodes:
        if "/job:ps" in node.device:
            continue
        for shape in node.attr["_output_shapes"].list.shape:
            sizes.append(int(np.prod([max(dimension.size, 0) for dimension in shape.dim])))
        for attribute in node.attr.values():
            if attribute.func.name in library:
                sizes += sizes_here(library[attribute.func.name].node_def, library)
    return sizes


@pytest.mark.parametrize(
    "cluster", [TWO_SERVERS, pytest.param(ONE_SERVER, marks=extra)], indirect=True
)
def test_the_update_stays_on_the_parameter_servers(strategy: Any) -> None:
    """Even with global clipping, only scalars pass through the coordinator."""
    with strategy.scope():
        model = dense_model()
        inner = keras.optimizers.Adam(0.1, global_clipnorm=0.1, weight_decay=0.1, use_ema=True)
        model.compile(tf_backup.wrap(inner, replicas=REPLICAS), "mse")
    model.fit(dataset_fn, steps_per_epoch=1, verbose=0)
    loop = model.train_function.engine._chief.loop
    (graph,) = [f.graph.as_graph_def(add_shapes=True) for f in loop._list_all_concrete_functions()]
    here = sizes_here(graph.node, {f.signature.name: f for f in graph.library.function})
    # The servers' answers, events and reports, are at most [4, N].
    assert here
    assert max(here) <= 4 * REPLICAS
