"""tf_backup/_tf/cut.py: how often an update across servers crosses between them."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest

import tf_backup
from tests.extra import extra
from tf_backup._tf.cut import Cut
from tf_backup.actors import chief


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[Cut]:
    """Updates that were cut into functions so far."""
    made: list[Cut] = []

    def cut(function: Any) -> Cut:
        made.append(Cut(function))
        return made[-1]

    monkeypatch.setattr(chief, "Cut", cut)
    return made


def crossing(cut: Cut) -> set[str]:
    """Return the names of tensors that one server needs from another, except the event."""
    found = set()
    for part in cut.parts:
        mine = {operation.name for operation in part.operations}
        needs, _ = cut._needs(part, mine)
        found |= {name for name in needs if cut._where[name.partition(":")[0]] != part.server}
    return {name for name in found if not name.startswith("event")}


@pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)
@pytest.mark.parametrize(
    ("optimizer", "servers", "tensors"),
    [
        (lambda: keras.optimizers.SGD(0.1), [0, 1, 0], 1),  # The learning rate.
        pytest.param(lambda: keras.optimizers.SGD(0.1, momentum=0.9), [0, 1, 0], 1, marks=extra),
        # Also the number of steps.
        pytest.param(lambda: keras.optimizers.Adam(0.1), [0, 1, 0], 2, marks=extra),
        (
            lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9)),
            [0, 1, 0],
            2,
        ),
        # One sum of squares for each of the six variables on server 1, and the norm.
        (lambda: keras.optimizers.SGD(0.1, global_clipnorm=1.0), [1, 0, 1, 0], 8),
    ],
    ids=["sgd", "momentum", "adam", "schedule", "global_clipnorm"],
)
def test_an_update_crosses_for_the_learning_rate_alone(
    strategy: Any,
    cuts: list[Cut],
    optimizer: Any,
    servers: list[int],
    tensors: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Small variables are placed in turn: the first one on server 0, whatever tests ran before.
    monkeypatch.setattr(strategy.extended, "_turn", itertools.cycle(range(2)))
    with strategy.scope():
        layers: list[Any] = [keras.layers.Dense(4) for _ in range(6)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile(optimizer=tf_backup.wrap(optimizer(), replicas=1, backups=0), loss="mse")
    model.fit(np.ones((4, 4)), np.ones((4, 4)), batch_size=4, verbose=0)
    (cut,) = cuts
    assert [part.server for part in cut.parts] == servers
    assert len(crossing(cut)) == tensors
